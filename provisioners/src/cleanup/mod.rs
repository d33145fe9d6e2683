//! Clean-up steps, which remove leftovers of a build from an image.
//!
//! The steps that are on by default remove files that are useless on the target or that differ
//! between builds. The others trade function for size or secrecy. A provisioner or an image can
//! switch each step: `cleanup: {docs: true, logs: false}`. `all` switches the steps that are not
//! named.
//!
//! A step reverts changes of the build ([`Machine::revert`]) and does not remove files of the base,
//! so clean-up never makes an overlay larger.

mod caches;
mod dpkg_lists;
mod identity;
mod records;
mod size;
mod walk;

use std::collections::BTreeMap;

use crate::config::error::Mistake;
use crate::config::{Fields, YamlNode};
use crate::machine::{Machine, MachineError};
use crate::options::Options;

/// One clean-up step.
pub struct Cleanup {
    /// Its name in configuration files.
    pub name: &'static str,
    /// The files that it reverts, in one line.
    pub description: &'static str,
    /// Whether it is on by default.
    pub default: bool,
    work: fn(&mut dyn Machine, &Options) -> Result<(), MachineError>,
}

impl std::fmt::Debug for Cleanup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cleanup").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Cleanup {
    /// Runs the step. Files that do not exist are ignored.
    ///
    /// # Errors
    ///
    /// Fails if the root cannot be read or changed.
    pub fn run(&self, machine: &mut dyn Machine, options: &Options) -> Result<(), MachineError> {
        (self.work)(machine, options)
    }
}

/// Returns all steps in the order in which they run.
pub fn list() -> &'static [Cleanup] {
    &STEPS
}

static STEPS: [Cleanup; 18] = [
    Cleanup {
        name: "apt-cache",
        description: "downloaded packages and apt's binary caches",
        default: true,
        work: caches::apt_cache,
    },
    Cleanup {
        name: "apt-lists",
        description: "package lists of apt-get update, and stamps of apt's periodic runs",
        default: true,
        work: caches::apt_lists,
    },
    Cleanup {
        name: "caches",
        description: "caches of ldconfig, man-db, fontconfig and others that are rebuilt on demand",
        default: true,
        work: caches::caches,
    },
    Cleanup {
        name: "logs",
        description: "changes below /var/log; new logs of services become empty files",
        default: true,
        work: records::logs,
    },
    Cleanup {
        name: "backups",
        description: "backups of the user database, dpkg, apt and debconf (passwd-, status-old)",
        default: true,
        work: records::backups,
    },
    Cleanup {
        name: "dpkg-lists",
        description: "dpkg's file lists of the lower layers' packages that lack only directories",
        default: true,
        work: dpkg_lists::dpkg_lists,
    },
    Cleanup {
        name: "tmp",
        description: "the content of /tmp and /var/tmp",
        default: true,
        work: records::tmp,
    },
    Cleanup {
        name: "root-home",
        description: "histories in /root, /root/.cache and Ansible's temporary files there",
        default: true,
        work: records::root_home,
    },
    Cleanup {
        name: "account-dates",
        description: "dates of password changes in /etc/shadow that are after SOURCE_DATE_EPOCH",
        default: true,
        work: identity::account_dates,
    },
    Cleanup {
        name: "crontab-headers",
        description: "the time and temporary name in the header that crontab writes to a file",
        default: true,
        work: identity::crontab_headers,
    },
    Cleanup {
        name: "machine-id",
        description: "the machine id, which every machine generates at its first boot",
        default: true,
        work: identity::machine_id,
    },
    Cleanup {
        name: "host-ids",
        description: "the NVMe host's name and id, open-iscsi's initiator name, ZFS's /etc/hostid",
        default: true,
        work: identity::host_ids,
    },
    Cleanup {
        name: "random-seeds",
        description: "saved random seeds and systemd's credential secret",
        default: true,
        work: identity::random_seeds,
    },
    Cleanup {
        name: "ssh-host-keys",
        description: "SSH host keys; the image must generate them at boot (ssh-keygen -A)",
        default: true,
        work: identity::ssh_host_keys,
    },
    Cleanup {
        name: "ssl-snakeoil",
        description: "the self-signed certificate of ssl-cert and its key; some services need it",
        default: false,
        work: identity::ssl_snakeoil,
    },
    Cleanup {
        name: "python-bytecode",
        description: "compiled Python (__pycache__); without it programs start slower",
        default: false,
        work: size::python_bytecode,
    },
    Cleanup {
        name: "docs",
        description: "manuals, info pages and documentation except copyright files",
        default: false,
        work: size::docs,
    },
    Cleanup {
        name: "locales",
        description: "translations other than English",
        default: false,
        work: size::locales,
    },
];

/// The steps that are switched on or off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CleanupSettings {
    all: Option<bool>,
    each: BTreeMap<&'static str, bool>,
}

impl CleanupSettings {
    /// Reads a mapping from names to true or false.
    pub(crate) fn parse(node: Option<&YamlNode>) -> Result<Self, Box<Mistake>> {
        let Some(node) = node else { return Ok(Self::default()) };
        let fields = Fields::new(node, "clean-up steps")?;
        let mut settings = Self { all: fields.bool("all")?, each: BTreeMap::new() };
        for step in list() {
            if let Some(on) = fields.bool(step.name)? {
                settings.each.insert(step.name, on);
            }
        }
        fields.finish()?;
        Ok(settings)
    }

    /// Turns one step on or off. Returns `false` if the name is unknown.
    pub fn set(&mut self, name: &str, on: bool) -> bool {
        let step = list().iter().find(|step| step.name == name);
        if let Some(step) = step {
            self.each.insert(step.name, on);
        }
        step.is_some()
    }

    /// Applies `other`, which takes precedence.
    pub(crate) fn overridden_by(mut self, other: &Self) -> Self {
        if other.all.is_some() {
            return other.clone();
        }
        self.each.extend(other.each.iter());
        self
    }

    /// Returns the steps that are on, in the order in which they run.
    pub fn enabled(&self) -> impl Iterator<Item = &'static Cleanup> {
        list()
            .iter()
            .filter(|step| self.each.get(step.name).copied().or(self.all).unwrap_or(step.default))
    }
}
