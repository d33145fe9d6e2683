//! Whether a kernel has drivers of physical machines, by its modules.
//!
//! Kernels for virtual machines (Debian's `linux-image-cloud-amd64`) have none of the drivers that
//! nearly every physical machine needs for its network card and disks. Some of their drivers are
//! for hardware that clouds hand to virtual machines (mlx5_core, nvme): those do not count.

use std::path::{Path, PathBuf};

use provisioners::machine::{Kind, Machine, MachineError};

use crate::look::{LookError, View, Walk};

/// Directories of modules, one of them for each kernel.
const MODULES: [&str; 2] = ["usr/lib/modules", "lib/modules"];
/// Drivers of network cards that are not handed to virtual machines.
const NETWORK: [&str; 16] = [
    "atlantic",
    "be2net",
    "bnx2",
    "bnx2x",
    "bnxt_en",
    "e1000e",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "qede",
    "r8169",
    "sfc",
    "tg3",
    "forcedeth",
];
/// Drivers of disks and their controllers, likewise.
const DISKS: [&str; 8] =
    ["aacraid", "ahci", "arcmsr", "hpsa", "isci", "megaraid_sas", "mpt3sas", "smartpqi"];
/// Drivers of virtual machines.
const VIRTUAL: [&str; 4] = ["virtio_net", "virtio_blk", "virtio_pci", "virtio_scsi"];
/// The most of a list of built-in modules that is read.
const MAX_LIST: usize = 4 << 20;

/// The predicate of a message about a kernel for virtual machines.
pub const LACK: &str = "has no driver of the usual physical network cards and disks (e1000e, igb, \
                        ixgbe, tg3, r8169; ahci, megaraid_sas, mpt3sas): it is for virtual machines";

/// The kinds of drivers that were seen among the modules of a kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drivers {
    physical: bool,
    is_virtual: bool,
}

impl Drivers {
    /// Notes a module, by the path of its file.
    fn note(&mut self, path: &str) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let Some((name, end)) = name.split_once(".ko") else { return };
        if !matches!(end, "" | ".xz" | ".zst" | ".gz") {
            return;
        }
        let name = name.replace('-', "_");
        let is_in = |drivers: &[&str]| drivers.contains(&name.as_str());
        self.physical |= is_in(&NETWORK) || is_in(&DISKS);
        self.is_virtual |= is_in(&VIRTUAL);
    }

    /// Notes the modules that are built in, by `modules.builtin`.
    fn note_built_in(&mut self, list: &[u8]) {
        String::from_utf8_lossy(list).lines().for_each(|line| self.note(line));
    }

    /// Whether it drives virtual machines, and no physical ones.
    pub fn are_virtual_only(self) -> bool {
        self.is_virtual && !self.physical
    }
}

/// The kernels of a view, by the directories of their modules.
///
/// # Errors
/// A damaged layer.
pub fn of_view(view: &View) -> Result<Vec<(Vec<u8>, Drivers)>, LookError> {
    let mut kernels = Vec::new();
    for place in MODULES {
        let found = match view.find(place.as_bytes(), fs_model::tree::Follow::Yes) {
            Err(LookError::Path { .. }) => None,
            found => found?,
        };
        // /lib is a link to usr/lib, or else the only one of the two.
        let Some(place) = found.filter(|node| node.is_dir() && kernels.is_empty()) else {
            continue;
        };
        for kernel in view.children(&place)?.into_iter().filter(|node| node.is_dir()) {
            let mut drivers = Drivers::default();
            view.walk::<LookError>(&kernel, &mut |node| {
                if node.is_file() {
                    drivers.note(&String::from_utf8_lossy(node.name()));
                }
                if node.name() == b"modules.builtin" && node.is_file() {
                    drivers.note_built_in(&view.head(node, MAX_LIST)?);
                }
                Ok(Walk::Into)
            })?;
            kernels.push((kernel.path, drivers));
        }
    }
    Ok(kernels)
}

/// The versions of kernels that drive virtual machines only, in a root during provisioning; `new`
/// leaves out those that the layers below have already.
///
/// # Errors
/// When a file or directory cannot be read.
pub fn virtual_only(machine: &dyn Machine, new: bool) -> Result<Vec<String>, MachineError> {
    let Some(place) = place(machine)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for kernel in machine.list(&place)? {
        let dir = place.join(&kernel.name);
        let is_below = |path: &Path| machine.read_below(path).map(|content| content.is_some());
        if kernel.kind != Kind::Directory || new && is_below(&dir.join("modules.builtin"))? {
            continue;
        }
        let mut drivers = Drivers::default();
        let mut a_module = None;
        let mut pending = vec![dir.clone()];
        while let Some(dir) = pending.pop() {
            for entry in machine.list(&dir)? {
                let name = entry.name.to_string_lossy();
                match entry.kind {
                    Kind::Directory => pending.push(dir.join(&entry.name)),
                    Kind::File if name.contains(".ko") => {
                        drivers.note(&name);
                        a_module = a_module.or_else(|| Some(dir.join(&entry.name)));
                    }
                    _ => {}
                }
            }
        }
        if let Some(list) = machine.read(&dir.join("modules.builtin"))? {
            drivers.note_built_in(&list);
        }
        let is_known = match a_module {
            Some(module) if new => is_below(&module)?,
            _ => false,
        };
        if drivers.are_virtual_only() && !is_known {
            found.push(kernel.name.to_string_lossy().into_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// The directory of modules of a root.
fn place(machine: &dyn Machine) -> Result<Option<PathBuf>, MachineError> {
    for place in MODULES {
        let place = Path::new("/").join(place);
        if machine.stat(&place)?.is_some() {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::Drivers;

    #[test]
    fn a_kernel_is_judged_by_its_modules() {
        let is_virtual = |modules: &[&str], built_in: &str| {
            let mut drivers = Drivers::default();
            modules.iter().for_each(|module| drivers.note(module));
            drivers.note_built_in(built_in.as_bytes());
            drivers.are_virtual_only()
        };
        // Of Debian's cloud kernel.
        let cloud = ["virtio_net.ko", "ena.ko", "mlx5_core.ko", "ata_piix.ko", "mpi3mr.ko"];
        assert!(is_virtual(&cloud, "kernel/drivers/nvme/host/nvme.ko\n"));
        assert!(is_virtual(&["virtio-blk.ko.xz"], ""));
        assert!(!is_virtual(&["virtio_net.ko.zst", "e1000e.ko.zst"], ""));
        assert!(!is_virtual(&["virtio_net.ko", "megaraid_sas.ko.xz"], ""));
        assert!(!is_virtual(&["virtio_net.ko"], "kernel/drivers/ata/ahci.ko\n"));
        assert!(!is_virtual(&["mlx5_core.ko"], ""), "a kernel of few modules");
        assert!(!is_virtual(&[], ""));
    }
}
