//! Imports of initrds: the modules and the boot script of library:initrd.

use super::*;

const ROLE: &str = "roles/initrd/own/tasks/main.yml";

#[test]
fn modules_of_the_role_are_those_of_the_library() {
    let task = |items: &str| {
        format!(
            "- shell: echo {{{{ item }}}} >> /etc/initramfs-tools/modules\n  with_items: {items}\n"
        )
    };
    let defaults = "squashfs, overlay, loop, virtio_net, virtio_pci, virtio_blk";
    let check = "Check: after the role, library:initrd creates the initrd";
    for (tasks, modules, is_check) in [
        (task("[squashfs, overlayfs]"), None, false),
        (task("[squashfs, e1000e, nvme]"), Some(", e1000e, nvme"), false),
        ("- command: 'true'\n".to_owned(), None, false),
        (task("'{{ names }}'"), None, true),
    ] {
        let dir = tree(&[(ROLE, &tasks), ("group_vars/all.yml", "names: [x]\n")]);
        let (imported, project) = imported(dir.path(), None);
        let text = imported.text.replace("\n    # ", " ");
        assert_eq!(text.contains(check), is_check, "{tasks}{text}");
        let own = member(&project, "initrd").image.variables().find(|(name, _)| *name == "modules");
        let line = modules.map(|more| format!("      modules: [{defaults}{more}]\n"));
        assert_eq!(own.is_some(), line.is_some(), "{tasks}");
        assert!(imported.text.contains(&line.unwrap_or_default()), "{tasks}{}", imported.text);
    }
    // These are the defaults of the library.
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/library/initrd/provisioner.yml");
    let library = fs::read_to_string(library).unwrap();
    assert!(library.contains(&format!("  modules: [{defaults}]\n")), "{library}");
}

#[test]
fn initrd_of_a_role_boots_by_its_own_script() {
    let script = |tasks: &str| {
        let dir = tree(&[(ROLE, tasks)]);
        let (_, project) = imported(dir.path(), None);
        let image = &member(&project, "initrd").image;
        let value = image.variables().find(|(name, _)| *name == "boot_script");
        value.map(|(_, value)| value.to_string()).unwrap_or_default()
    };
    assert_eq!(script("- command: mkinitramfs -o /boot/initrd.img-1 1\n"), "\"local\"");
    assert_eq!(script(TASKS), "\"overcoat\"");
}
