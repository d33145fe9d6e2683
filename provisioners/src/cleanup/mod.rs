//! Clean-up: what a build leaves behind that no image should hold, as named steps.
//!
//! Steps that are on by default take away what is of no use on the target or differs from build to
//! build; the others trade something for size or secrecy. Each can be switched by a provisioner or
//! an image: `cleanup: {docs: true, logs: false}`; `all` switches those that are not named.
//!
//! A step takes back what the build did rather than removing what is there
//! ([`Machine::revert`]): what a base brings along stays, so cleaning an overlay makes it smaller,
//! never larger.

mod caches;
mod identity;
mod records;
mod size;
mod walk;

use std::collections::BTreeMap;

use crate::config::error::Mistake;
use crate::config::{Fields, Node};
use crate::machine::{Machine, MachineError};
use crate::run::Options;

/// One clean-up step.
pub struct Cleanup {
    /// Its name in configuration files.
    pub name: &'static str,
    /// What it does, in one line.
    pub description: &'static str,
    /// Whether it runs when nobody says otherwise.
    pub default: bool,
    work: fn(&mut dyn Machine, &Options) -> Result<(), MachineError>,
}

impl std::fmt::Debug for Cleanup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cleanup").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Cleanup {
    /// Does it.
    ///
    /// # Errors
    /// When the root can't be read or changed. What is not there is no error.
    pub fn run(&self, machine: &mut dyn Machine, options: &Options) -> Result<(), MachineError> {
        (self.work)(machine, options)
    }
}

/// All steps, in the order in which they run.
pub fn list() -> &'static [Cleanup] {
    &STEPS
}

static STEPS: [Cleanup; 16] = [
    Cleanup {
        name: "apt-cache",
        description: "downloaded packages and apt's binary caches",
        default: true,
        work: caches::apt_cache,
    },
    Cleanup {
        name: "apt-lists",
        description: "the lists of apt-get update",
        default: true,
        work: caches::apt_lists,
    },
    Cleanup {
        name: "caches",
        description: "caches of ldconfig, man-db, fontconfig and others that are rebuilt at need",
        default: true,
        work: caches::caches,
    },
    Cleanup {
        name: "logs",
        description: "what the build wrote below /var/log; a log with an owner of its own is emptied",
        default: true,
        work: records::logs,
    },
    Cleanup {
        name: "backups",
        description: "backups of the user database, of dpkg and of debconf (passwd-, status-old)",
        default: true,
        work: records::backups,
    },
    Cleanup {
        name: "tmp",
        description: "what is in /tmp and /var/tmp",
        default: true,
        work: records::tmp,
    },
    Cleanup {
        name: "root-home",
        description: "histories and caches in /root",
        default: true,
        work: records::root_home,
    },
    Cleanup {
        name: "account-dates",
        description: "with SOURCE_DATE_EPOCH: dates of password changes in /etc/shadow no later",
        default: true,
        work: identity::account_dates,
    },
    Cleanup {
        name: "machine-id",
        description: "the machine id, which every machine makes for itself at its first start",
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
        description: "SSH host keys; the image has to make its own at start (ssh-keygen -A)",
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
        description: "compiled Python (__pycache__); programs start a little slower without",
        default: false,
        work: size::python_bytecode,
    },
    Cleanup {
        name: "docs",
        description: "manuals, info pages and documentation but the copyright files",
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

/// Which steps were switched on or off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    all: Option<bool>,
    each: BTreeMap<&'static str, bool>,
}

impl Settings {
    /// Reads a mapping from names to true or false.
    pub(crate) fn of(node: Option<&Node>) -> Result<Self, Box<Mistake>> {
        let Some(node) = node else { return Ok(Self::default()) };
        let fields = Fields::of(node, "clean-up steps")?;
        let mut settings = Self { all: fields.bool("all")?, each: BTreeMap::new() };
        for step in list() {
            if let Some(on) = fields.bool(step.name)? {
                settings.each.insert(step.name, on);
            }
        }
        fields.finish()?;
        Ok(settings)
    }

    /// Switches one step; `false` when there is none of that name.
    pub fn set(&mut self, name: &str, on: bool) -> bool {
        let step = list().iter().find(|step| step.name == name);
        if let Some(step) = step {
            self.each.insert(step.name, on);
        }
        step.is_some()
    }

    /// These settings, changed by others that win.
    pub(crate) fn overridden_by(mut self, other: &Self) -> Self {
        if other.all.is_some() {
            return other.clone();
        }
        self.each.extend(other.each.iter());
        self
    }

    /// The steps that are on, in their order.
    pub fn enabled(&self) -> impl Iterator<Item = &'static Cleanup> {
        list()
            .iter()
            .filter(|step| self.each.get(step.name).copied().or(self.all).unwrap_or(step.default))
    }
}
