//! Owners, capabilities, access lists and times that a root cannot show or an archive cannot hold.

use std::fs;
use std::path::Path;

use crate::support::stage::{BOTH_USERS, EACH_PRIVILEGE, Finished, Stage, Who, finish};

/// Runs `script` in the Debian base and saves its changes as `output`.
fn run(stage: &Stage, who: Who, script: &str, output: &Path) -> Finished {
    let repository = stage.bind_repository();
    let mut command = stage.overcoat(who);
    command.arg("run").arg(stage.debian()).arg("--save").arg(output);
    command.args(["--bind", &repository, "--", "/bin/sh", "-ec", script]);
    finish(&mut command)
}

/// Returns the lines that cpio lists for paths with this prefix.
fn listed(stage: &Stage, archive: &Path, prefix: &str) -> Vec<String> {
    let list = stage.archive_listing(archive);
    let words = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (mode, owner) = (words[0].to_owned(), format!("{}:{}", words[2], words[3]));
        (words[words.len() - 1].to_owned(), format!("{mode} {owner}"))
    };
    let lines = list.lines().map(words).filter(|(path, _)| path.starts_with(prefix));
    lines.map(|(path, what)| format!("{what} {path}")).collect()
}

#[test]
fn owners_above_the_mapped_range_are_kept_when_copied() {
    let stage = Stage::new();
    let script = "
        mkdir -p /srv/home; cd /srv/home
        for name in edited moved packed copied linked; do echo '#x' >$name; done
        mkdir sub; ln -s edited link
        chown -R 200001:300000 . ; chown 200002 moved; chown -h 200003:7 link; chgrp 300001 sub
        sed -i 's/^#//' edited
        mv moved /tmp/moved; mv /tmp/moved moved
        tar -cf /tmp/tar packed sub link; rm -r packed sub; tar -xpf /tmp/tar
        cp -a copied /tmp/copied; cp -a /tmp/copied again
        chown --reference=moved linked
        install -o \"$(stat -c %u edited)\" -g \"$(stat -c %g sub)\" /dev/null installed
        python3 -c 'import os; os.setegid(os.stat(\"edited\").st_gid); open(\"made\", \"w\")'
        cp -a /srv/home /srv/copy
    ";
    let archives = BOTH_USERS.map(|who| {
        let output = stage.out(who).join("owners.cpio.gz");
        let done = run(&stage, who, script, &output).ok();
        if who == Who::Unprivileged {
            done.stderr_has(&[
                "/srv/home",
                "200001:300000",
                "usermod --add-subuids ",
                "--add-subgids ",
            ]);
        } else {
            assert!(!done.stderr.contains("usermod"));
        }
        listed(&stage, &output, "srv/")
    });
    assert_eq!(archives[0], archives[1]);
    assert!(archives[1].contains(&"-rw-r--r-- 200001:300000 srv/copy/edited".to_owned()));
    assert!(archives[1].contains(&"-rw-r--r-- 200001:300000 srv/home/again".to_owned()));
    assert!(archives[1].contains(&"-rw-r--r-- 0:300000 srv/copy/made".to_owned()));
}

#[test]
fn owners_in_and_above_the_alias_range_stay_distinct() {
    let stage = Stage::new();
    // The preferred aliases of the other ids are in use.
    stage.sh("mkdir -p layer/srv; cd layer/srv; for id in 60578 60579 99990 99991; do
                touch $id; chown $id:$id $id; done");
    let script = "cd /srv; cp -a . /srv2; test $(stat -c %u /srv2/* | sort -u | wc -l) = 4";
    for who in BOTH_USERS {
        let output = stage.out(who).join("kept.cpio.gz");
        let mut command = stage.overcoat(who);
        command.arg("run").args([stage.debian(), stage.path("layer")]).arg("--save").arg(&output);
        finish(command.args(["--", "/bin/sh", "-ec", script])).ok();
        let lines = listed(&stage, &output, "srv2/");
        let expected = ["60578", "60579", "99990", "99991"];
        assert_eq!(lines, expected.map(|id| format!("-rw-r--r-- {id}:{id} srv2/{id}")));
    }
}

/// Sets an attribute with setxattr in the calling process, as rpm does.
const INSISTING: &str = "
    cp /bin/true /usr/local/bin/agent
    python3 -c 'import os; os.setxattr(\"/usr/local/bin/agent\", \"security.capability\", \
        bytes.fromhex(\"0100000200200000\" + \"00\" * 12)); \
        os.setxattr(\"/etc/hostname\", \"user.note\", b\"x\")'
    dpkg -i /repo/libcap2-bin_*.deb >/dev/null
    cp /bin/true /usr/local/bin/second
    setcap cap_net_raw+ep /usr/local/bin/second
    sh -ec 'setcap cap_net_raw+ep /usr/local/bin/second || exit 9'
";

#[test]
fn lost_capabilities_are_reported_and_the_command_continues() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let output = stage.out(who).join("caps.cpio.gz");
        run(&stage, who, INSISTING, &output).ok().stderr_has(&[
            "overcoat: warning: /usr/local/bin/agent: ",
            "overcoat: warning: /usr/local/bin/second: ",
            "overcoat: warning: /etc/hostname: the format cannot hold its attribute user.note",
            "security.capability: .tar and .squashfs keep it",
        ]);
        assert!(
            listed(&stage, &output, "etc/hostname").is_empty(),
            "an attribute alone is not an entry"
        );
        let output = stage.out(who).join("caps.squashfs");
        let done = run(&stage, who, INSISTING, &output).ok();
        let printed = done.stderr.clone();
        assert!(!printed.contains("cannot hold"), "{printed}");
        let mut stat = stage.overcoat(who);
        let stat = finish(stat.arg("stat").arg(&output).arg(":/usr/local/bin/agent")).ok();
        assert!(stat.text().contains("security.capability"), "{}", stat.text());
    }
}

#[test]
fn a_change_of_the_owner_removes_the_capabilities() {
    let stage = Stage::new();
    let script = "
        dpkg -i /repo/libcap2-bin_*.deb >/dev/null 2>&1; cd /srv
        for name in user group high kept; do cp /bin/true $name; setcap cap_net_raw+ep $name; done
        chown 1000 user; chgrp 7 group; chown 200001 high; getcap *";
    for who in EACH_PRIVILEGE {
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian()).args(["--bind", &stage.bind_repository()]);
        let done = finish(command.args(["--save", "x.tar", "--", "/bin/sh", "-ec", script])).ok();
        assert_eq!(done.text(), "kept cap_net_raw=ep\n", "{who:?}");
    }
}

#[test]
fn attributes_with_names_that_squashfs_cannot_hold_are_reported() {
    let stage = Stage::new();
    stage.sh("mkdir layer; touch layer/file; setfattr -n user.a=b -v c layer/file
              setfattr -n user.kept -v c layer/file");
    let mut command = stage.overcoat(Who::Root);
    command.arg("run").args([stage.debian(), stage.path("layer")]).args(["--save", "x.squashfs"]);
    let set = "import os; os.setxattr('/file', 'user.c=d', b'e')";
    let script = format!("touch -d 2001-01-01 /file; python3 -c \"{set}\"");
    finish(command.args(["--", "sh", "-ec", &script]))
        .ok()
        .stderr_has(&["/file: ", "user.a=b, user.c=d: .tar keeps them"]);
    let mut stat = stage.overcoat(Who::Root);
    let stat = finish(stat.args(["stat", "x.squashfs", ":/file"])).ok().text();
    assert!(stat.contains("user.kept") && !stat.contains("user.a"), "{stat}");
}

#[test]
fn scripts_with_a_fallback_use_it() {
    let stage = Stage::new();
    let script = "
        dpkg -i /repo/libcap2-bin_*.deb /repo/iputils-ping_*.deb >/dev/null
        cp /bin/true /usr/local/bin/one
        setcap cap_net_raw+ep /usr/local/bin/one || chmod u+s /usr/local/bin/one
        printf '#!/bin/bash\\nif ! setcap cap_chown+ep $1; then chmod 4750 $1; fi\\n' >/tmp/script
        cp /bin/true /usr/local/bin/two; chmod +x /tmp/script; /tmp/script /usr/local/bin/two
    ";
    for who in BOTH_USERS {
        let output = stage.out(who).join("ping.cpio.gz");
        let done = run(&stage, who, script, &output).ok();
        assert!(!done.stderr.contains("cannot hold"));
        assert_eq!(listed(&stage, &output, "usr/bin/ping")[0], "-rwsr-xr-x 0:0 usr/bin/ping");
        let own = listed(&stage, &output, "usr/local/bin/");
        assert_eq!(own, ["-rwsr-xr-x 0:0 usr/local/bin/one", "-rwsr-x--- 0:0 usr/local/bin/two"]);
        // The fallback is not used when the format keeps the capability.
        let output = stage.out(who).join("ping.squashfs");
        run(&stage, who, script, &output).ok();
        let mut stat = stage.overcoat(who);
        let stat = finish(stat.arg("stat").arg(&output).arg(":/usr/bin/ping")).ok().text();
        assert!(stat.contains("security.capability") && !stat.contains("rws"), "{stat}");
    }
}

/// Sets an access list such as `user::rwx,user:7:rwx,group::r-x,mask::rwx,other::---`.
const SET_LIST: &str = "
import os, struct, sys
def listed(path, may, group, other=0, name='system.posix_acl_access'):
    no = 0xffffffff
    entries = [(1, may, no), (2, may, 7), (4, group, no), (0x10, may, no), (0x20, other, no)]
    value = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in entries)
    os.setxattr(path, name, value)
";

#[test]
fn lost_access_list_never_widens_the_mode() {
    let stage = Stage::new();
    stage.sh("mkdir -p layer/srv/of_layer; echo x >layer/srv/of_layer/file");
    let program = format!(
        "{SET_LIST}
listed('layer/srv/of_layer', 7, 5, 5)
listed('layer/srv/of_layer/file', 6, 4, 4)
"
    );
    stage.write("list.py", program);
    stage.sh("python3 list.py; chmod 755 layer/srv; touch -d 2001-02-03 layer/srv/of_layer/file");
    let program = format!(
        "{SET_LIST}
os.mkdir('/srv/made'); os.chmod('/srv/made', 0o750); listed('/srv/made', 7, 5)
listed('/srv/made', 7, 0, 0, 'system.posix_acl_default')
os.umask(0); open('/srv/made/in', 'w')
open('/srv/file', 'w'); os.chmod('/srv/file', 0o640); listed('/srv/file', 6, 4)
open('/srv/of_layer/new', 'w')
os.chmod('/srv/file', 0o660)
open('/srv/of_layer/file', 'a').write('y')
"
    );
    stage.write("in.py", program);
    for (who, ending) in
        BOTH_USERS.into_iter().flat_map(|who| [(who, "cpio.gz"), (who, "squashfs")])
    {
        let output = stage.out(who).join(format!("lists.{ending}"));
        let mut command = stage.overcoat(who);
        command.arg("run").args([stage.debian(), stage.path("layer")]).arg("--save").arg(&output);
        let program = format!("{}:/in.py:ro", stage.path("in.py").display());
        let done = finish(command.args(["--bind", &program, "--", "python3", "/in.py"])).ok();
        done.stderr_has(&[
            "/srv/made: the format cannot hold its attributes system.posix_acl_access",
            "/srv/file: the format cannot hold its attribute system.posix_acl_access: .tar keeps it",
            "/srv/of_layer: ",
            "/srv/of_layer/file: ",
        ]);
        let modes = stage.sh(&format!(
            "mkdir x; cd x; case {0} in *.gz) gzip -dc {0} | cpio -idm --quiet;;
             *) unsquashfs -q -n -f -d . {0} >/dev/null;; esac
             stat -c '%a %n' srv/made srv/made/in srv/file srv/of_layer srv/of_layer/file
             cd ..; rm -r x",
            output.display()
        ));
        let lines: Vec<&str> = modes.lines().collect();
        assert_eq!(
            lines,
            [
                "750 srv/made",
                "600 srv/made/in",
                "640 srv/file",
                "755 srv/of_layer",
                "644 srv/of_layer/file"
            ],
            "{ending}"
        );
    }
    // A tar contains the lists, and the modes that correspond to their masks.
    let output = stage.out(Who::Root).join("lists.tar");
    let mut command = stage.overcoat(Who::Root);
    command.arg("run").args([stage.debian(), stage.path("layer")]).arg("--save").arg(&output);
    let program = format!("{}:/in.py:ro", stage.path("in.py").display());
    finish(command.args(["--bind", &program, "--", "python3", "/in.py"])).ok();
    let tar = stage.sh(&format!("tar --acls -tvf {}", output.display()));
    let line = tar.lines().find(|line| line.ends_with(" srv/made/")).unwrap();
    assert!(line.starts_with("drwxrwx---+"), "{line}");
    // The same applies to `extract`.
    let output = stage.out(Who::Root).join("taken.cpio.gz");
    let mut command = stage.overcoat(Who::Root);
    command.arg("extract").arg(stage.path("layer")).arg(":/srv").arg("-o").arg(&output);
    finish(&mut command).ok();
    let lines = listed(&stage, &output, "srv/of_layer");
    assert_eq!(lines, ["drwxr-xr-x 0:0 srv/of_layer", "-rw-r--r-- 0:0 srv/of_layer/file"]);
}

#[test]
fn explicitly_set_directory_time_is_in_the_overlay() {
    let stage = Stage::new();
    let script = "
        touch -d '2001-02-03 UTC' /etc/apt /usr/lib
        touch -d '2002-02-03 UTC' /etc; touch /etc/new
        touch /opt/passing; rm /opt/passing
        touch -r /srv /tmp/srv; mkdir /srv/x; rmdir /srv/x; touch -r /tmp/srv /srv
    ";
    for who in BOTH_USERS {
        let output = stage.out(who).join("times.cpio.gz");
        run(&stage, who, script, &output).ok();
        let paths = listed(&stage, &output, "");
        let paths: Vec<&str> = paths.iter().filter_map(|line| line.rsplit(' ').next()).collect();
        // The other directories keep the old time, or only their names changed.
        assert_eq!(paths, [".", "etc", "etc/apt", "etc/new", "usr", "usr/lib"]);
        let listing = |path: &str| {
            let mut command = stage.overcoat(who);
            finish(command.args(["stat", "--json"]).arg(&output).arg(path)).ok().text()
        };
        for (path, time) in [(":/etc/apt", "981158400"), (":/usr/lib", "981158400")] {
            assert!(listing(path).contains(time), "{path}: {}", listing(path));
        }
        assert!(!listing(":/etc").contains("1012694400"), "an entry was created in it later");
    }
}

#[test]
fn files_step_keeps_the_times_of_existing_directories() {
    let stage = Stage::new();
    stage.write("p/provisioner.yml", "files: files\n");
    stage.write("p/files/usr/share/new/file", "x");
    let text = format!("base: {}\nprovisioner: p\nnetwork: none\n", stage.debian().display());
    let image = stage.write("image.yml", text);
    stage.sh("find p -exec touch -d 2001-02-03 {} +");
    let output = stage.out(Who::Root).join("files.cpio.gz");
    let mut command = stage.overcoat(Who::Root);
    finish(command.arg("build").arg(&image).arg("-o").arg(&output)).ok();
    let manifest =
        fs::read_to_string(output.with_file_name("files.cpio.gz.manifest.json")).unwrap();
    let change = |path: &str| {
        let begin = format!("{{\"path\":\"{path}\",\"change\":\"");
        let line = manifest.lines().find_map(|line| line.strip_prefix(&begin)).unwrap();
        line.split('"').next().unwrap().to_owned()
    };
    assert_eq!(change("usr"), "unchanged", "the time of the folder in the checkout is not used");
    assert_eq!(change("usr/share/new/file"), "added");
}

#[test]
fn layers_with_unsupported_overlayfs_attributes_are_rejected() {
    let stage = Stage::new();
    let base = stage.debian();
    for (attribute, path) in [
        ("trusted.overlay.redirect", "opt/moved"),
        ("user.overlay.redirect", "opt/moved"),
        ("trusted.overlay.metacopy", "opt/moved/file"),
        ("user.overlay.whiteout", "opt/moved/file"),
    ] {
        stage.sh(
            "rm -rf upper upper.squashfs; mkdir -p upper/opt/moved; echo x >upper/opt/moved/file",
        );
        let marked = stage.path("upper").join(path);
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&marked, attribute, b"/opt/old", flags).unwrap();
        stage.sh("mksquashfs upper upper.squashfs -quiet -no-progress");
        for layer in ["upper", "upper.squashfs"] {
            let path = format!("/{path} ");
            let mut ls = stage.overcoat(Who::Root);
            finish(ls.arg("ls").arg(&base).arg(stage.path(layer)).arg(":/"))
                .code(2)
                .stderr_has(&[attribute, &path]);
            let mut run = stage.overcoat(Who::Root);
            run.arg("run").arg(&base).arg(stage.path(layer)).args(["--", "true"]);
            finish(&mut run).code(2).stderr_has(&[attribute, &path]);
            let mut check = stage.overcoat(Who::Root);
            let report = finish(check.arg("check").arg(&base).arg(stage.path(layer))).code(1);
            assert!(report.text().contains(attribute), "{}", report.text());
        }
    }
    // An unprivileged user cannot read the opaque attributes that root set.
    stage.sh("mkdir -p deleted/etc; mknod deleted/etc/issue c 0 0; chmod -R a+rX deleted");
    let ls = |who| {
        let mut ls = stage.overcoat(who);
        let done = finish(ls.arg("ls").arg(&base).arg(stage.path("deleted")).arg(":/etc/hostname"));
        done.ok().stderr.clone()
    };
    assert!(
        ls(Who::Unprivileged)
            .contains("etc/issue is a whiteout or a file without data of another user")
    );
    assert_eq!(ls(Who::Root), "");
}

#[test]
fn set_id_bits_of_files_that_root_writes_are_kept_at_both_privileges() {
    let stage = Stage::new();
    let script = "
        cd /srv
        for name in copied appended cut cloned; do cp /bin/true $name; chmod 6755 $name; done
        cp /bin/false copied; echo x >>appended; truncate -s 10 cut
        cp --reflink=auto /bin/false cloned; cat /bin/ls >/usr/bin/su
        printf x >allocated; chmod 4755 allocated; fallocate -l 9000 allocated
        cp /bin/true others; chmod 6777 others
        setpriv --reuid 4242 --regid 4242 --clear-groups sh -c 'echo x >>others'";
    let modes = BOTH_USERS.map(|who| {
        let archive = stage.out(who).join("modes.cpio.gz");
        run(&stage, who, script, &archive).ok();
        [listed(&stage, &archive, "srv/"), listed(&stage, &archive, "usr/bin/su")].concat()
    });
    assert_eq!(modes[0], modes[1]);
    assert_eq!(
        modes[0],
        [
            "-rwsr-xr-x 0:0 srv/allocated",
            "-rwsr-sr-x 0:0 srv/appended",
            "-rwsr-sr-x 0:0 srv/cloned",
            "-rwsr-sr-x 0:0 srv/copied",
            "-rwsr-sr-x 0:0 srv/cut",
            "-rwxrwxrwx 0:0 srv/others",
            "-rwsr-xr-x 0:0 usr/bin/su",
        ]
    );
}
