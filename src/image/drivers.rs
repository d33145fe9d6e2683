//! Detects kernels that have drivers for virtual machines only, by their modules.
//!
//! Such kernels (Debian's `linux-image-cloud-amd64`) lack the drivers that nearly every physical
//! machine needs for its network card and disks. Drivers of hardware that clouds pass through to
//! virtual machines (mlx5_core, nvme) do not count.

use std::path::{Path, PathBuf};

use provisioners::machine::{Kind, Machine, MachineError};

use crate::image::view::{LookError, StackView, WalkControl};

/// Directories with a subdirectory of modules for each kernel.
const MODULE_DIRS: [&str; 2] = ["usr/lib/modules", "lib/modules"];
/// Drivers of network cards that are not passed through to virtual machines.
const NETWORK_DRIVERS: [&str; 16] = [
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
/// Drivers of such disk controllers.
const DISK_DRIVERS: [&str; 8] =
    ["aacraid", "ahci", "arcmsr", "hpsa", "isci", "megaraid_sas", "mpt3sas", "smartpqi"];
/// Drivers of virtual devices.
const VIRTUAL_DRIVERS: [&str; 4] = ["virtio_net", "virtio_blk", "virtio_pci", "virtio_scsi"];
/// Maximum bytes that are read of a list of built-in modules.
const MAX_LIST: usize = 4 << 20;

/// Predicate of a message about a kernel for virtual machines.
pub(crate) const VIRTUAL_ONLY: &str = "has no driver for the usual physical network cards and disks \
                                (e1000e, igb, ixgbe, tg3, r8169; ahci, megaraid_sas, mpt3sas): it \
                                is for virtual machines";

/// The kinds of drivers among the modules of a kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Drivers {
    physical: bool,
    is_virtual: bool,
}

impl Drivers {
    /// Records a module by the path of its file.
    fn add_module(&mut self, path: &str) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let Some((name, end)) = name.split_once(".ko") else { return };
        if !matches!(end, "" | ".xz" | ".zst" | ".gz") {
            return;
        }
        let name = name.replace('-', "_");
        let is_in = |drivers: &[&str]| drivers.contains(&name.as_str());
        self.physical |= is_in(&NETWORK_DRIVERS) || is_in(&DISK_DRIVERS);
        self.is_virtual |= is_in(&VIRTUAL_DRIVERS);
    }

    /// Records the built-in modules that `modules.builtin` lists.
    fn add_built_in(&mut self, list: &[u8]) {
        String::from_utf8_lossy(list).lines().for_each(|line| self.add_module(line));
    }

    /// Returns whether there are drivers for virtual machines and none for physical ones.
    pub(crate) fn are_virtual_only(self) -> bool {
        self.is_virtual && !self.physical
    }
}

/// Returns the kernels of a view, each with its module directory.
///
/// # Errors
/// Fails if a layer cannot be read.
pub(crate) fn kernels_in_view(view: &StackView) -> Result<Vec<(Vec<u8>, Drivers)>, LookError> {
    let mut kernels = Vec::new();
    for dir in MODULE_DIRS {
        let found = match view.find(dir.as_bytes(), fs_model::tree::Follow::Yes) {
            Err(LookError::Path { .. }) => None,
            found => found?,
        };
        // /lib may be a link to usr/lib.
        let Some(dir) = found.filter(|node| node.is_dir() && kernels.is_empty()) else {
            continue;
        };
        for kernel in view.children(&dir)?.into_iter().filter(|node| node.is_dir()) {
            let mut drivers = Drivers::default();
            view.walk::<LookError>(&kernel, &mut |node| {
                if node.is_file() {
                    drivers.add_module(&String::from_utf8_lossy(node.name()));
                }
                if node.name() == b"modules.builtin" && node.is_file() {
                    drivers.add_built_in(&view.head(node, MAX_LIST)?);
                }
                Ok(WalkControl::Into)
            })?;
            kernels.push((kernel.path, drivers));
        }
    }
    Ok(kernels)
}

/// Returns the versions of kernels with drivers for virtual machines only, in a root during
/// provisioning. `new` excludes those of the lower layers.
///
/// # Errors
/// Fails if a file or directory cannot be read.
pub(crate) fn virtual_only(machine: &dyn Machine, new: bool) -> Result<Vec<String>, MachineError> {
    let Some(modules) = module_dir(machine)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for kernel in machine.list(&modules)? {
        let dir = modules.join(&kernel.name);
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
                        drivers.add_module(&name);
                        a_module = a_module.or_else(|| Some(dir.join(&entry.name)));
                    }
                    _ => {}
                }
            }
        }
        if let Some(list) = machine.read(&dir.join("modules.builtin"))? {
            drivers.add_built_in(&list);
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

/// Returns the directory of modules of a root.
fn module_dir(machine: &dyn Machine) -> Result<Option<PathBuf>, MachineError> {
    for dir in MODULE_DIRS {
        let dir = Path::new("/").join(dir);
        if machine.stat(&dir)?.is_some() {
            return Ok(Some(dir));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::Drivers;

    #[test]
    fn kernel_without_physical_drivers_is_virtual_only() {
        let is_virtual = |modules: &[&str], built_in: &str| {
            let mut drivers = Drivers::default();
            modules.iter().for_each(|module| drivers.add_module(module));
            drivers.add_built_in(built_in.as_bytes());
            drivers.are_virtual_only()
        };
        // Modules of Debian's cloud kernel.
        let cloud = ["virtio_net.ko", "ena.ko", "mlx5_core.ko", "ata_piix.ko", "mpi3mr.ko"];
        assert!(is_virtual(&cloud, "kernel/drivers/nvme/host/nvme.ko\n"));
        assert!(is_virtual(&["virtio-blk.ko.xz"], ""));
        assert!(!is_virtual(&["virtio_net.ko.zst", "e1000e.ko.zst"], ""));
        assert!(!is_virtual(&["virtio_net.ko", "megaraid_sas.ko.xz"], ""));
        assert!(!is_virtual(&["virtio_net.ko"], "kernel/drivers/ata/ahci.ko\n"));
        assert!(!is_virtual(&["mlx5_core.ko"], ""), "a kernel with few modules");
        assert!(!is_virtual(&[], ""));
    }
}
