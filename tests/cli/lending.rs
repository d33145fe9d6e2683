//! Lent files: host settings that every build step sees. Changes by programs are written to the
//! image's own file, and host values are not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::stage::{
    BOTH_USERS, EACH_PRIVILEGE, EPOCH, Finished, Stage, Who, bind, finish,
};

/// The name server of the host in these tests, and a line that identifies its certificates.
pub(crate) const SERVER: &str = "192.0.2.11";

/// Creates a stage on a host with this resolv.conf.
pub(crate) fn stage_with(resolv: &str) -> Stage {
    let stage = Stage::new();
    let file = stage.write("host/resolv.conf", resolv);
    bind(&file, Path::new("/etc/resolv.conf"));
    stage
}

/// Returns a certificate that is valid enough for these tests.
pub(crate) fn certificate(body: &str) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

/// Writes an image file with a step for each of `scripts`.
pub(crate) fn image(stage: &Stage, settings: &str, scripts: &[&str]) -> PathBuf {
    let mut provisioner = "scripts:\n".to_owned();
    for (number, script) in scripts.iter().enumerate() {
        stage.write(format!("pack/{number}.sh"), format!("#!/bin/sh -eu\n{script}\n"));
        provisioner.push_str(&format!("  - {number}.sh\n"));
    }
    stage.write("pack/provisioner.yml", provisioner);
    let text = format!("base: {}\nprovisioner: pack\n{settings}", stage.debian().display());
    stage.write("image.yml", text)
}

pub(crate) fn build_command(stage: &Stage, who: Who, image: &Path, output: &Path) -> Command {
    let mut command = stage.overcoat(who);
    command.arg("build").arg(image).arg("-o").arg(output).env("SOURCE_DATE_EPOCH", EPOCH);
    for variable in ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT"] {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn build(
    stage: &Stage,
    who: Who,
    settings: &str,
    scripts: &[&str],
) -> (PathBuf, Finished) {
    let image = image(stage, settings, scripts);
    let output = stage.out(who).join("lending.cpio.gz");
    let finished = finish(&mut build_command(stage, who, &image, &output));
    (output, finished)
}

/// Returns the paths in an overlay, including directories.
pub(crate) fn names(stage: &Stage, overlay: &Path) -> String {
    let listed = stage.archive_names(overlay);
    listed.lines().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_way_of_writing_a_lent_file_changes_the_file_of_the_image() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let scripts = [
        "echo '127.0.0.1 localhost' >/etc/hosts",
        "echo '203.0.113.1 one' >>/etc/hosts",
        "echo '203.0.113.2 two' | tee -a /etc/hosts >/dev/null",
        "sed -i 's/one/uno/' /etc/hosts",
        "printf '203.0.113.3 three\\n' | dd of=/etc/hosts oflag=append conv=notrunc status=none",
        "cp /etc/hosts /tmp/h; echo '203.0.113.4 four' >>/tmp/h; cp /tmp/h /etc/hosts",
        "cp /etc/hosts /tmp/h; echo '203.0.113.5 five' >>/tmp/h; mv /tmp/h /etc/hosts",
        "python3 -c \"
import os
with open('/etc/hosts', 'r+') as file:
    text = file.read()
    file.seek(0)
    file.write(text + '203.0.113.6 six\\n')
    file.truncate()
\"",
        "exec 3<>/etc/hosts; cat <&3 >/dev/null; echo '203.0.113.65 more' >&3",
        "exec 3>>/etc/hosts; echo '203.0.113.7 seven' >&3; grep -q seven /etc/hosts
         echo '203.0.113.8 eight' >&3; grep -q eight /etc/hosts",
        "chmod 640 /etc/hosts; chown 3:4 /etc/hosts",
        ": >/etc/resolv.conf",
        "echo 'nameserver 10.0.0.53' >>/etc/resolv.conf; touch -d '2001-02-03 UTC' /etc/resolv.conf",
        "echo '#!/bin/sh' >/usr/sbin/policy-rc.d",
        "truncate -s 9 /usr/sbin/policy-rc.d",
        "echo '// site' >>/etc/apt/apt.conf",
        "echo '# site' >>/etc/ssl/certs/ca-certificates.crt",
    ];
    for who in BOTH_USERS {
        let (overlay, finished) = build(&stage, who, "", &scripts);
        let finished = finished.ok();
        assert!(!finished.stderr.contains("warning"), "{}", finished.stderr);
        let hosts = "127.0.0.1 localhost\n203.0.113.1 uno\n203.0.113.2 two\n203.0.113.3 three\n\
                     203.0.113.4 four\n203.0.113.5 five\n203.0.113.6 six\n203.0.113.65 more\n\
                     203.0.113.7 seven\n\
                     203.0.113.8 eight\n";
        assert_eq!(stage.archived_file(&overlay, "etc/hosts"), hosts);
        assert_eq!(stage.archived_file(&overlay, "etc/resolv.conf"), "nameserver 10.0.0.53\n");
        assert_eq!(stage.archived_file(&overlay, "usr/sbin/policy-rc.d"), "#!/bin/sh");
        assert_eq!(stage.archived_file(&overlay, "etc/apt/apt.conf"), "// site\n");
        let bundle = stage.archived_file(&overlay, "etc/ssl/certs/ca-certificates.crt");
        assert!(bundle.ends_with("\n# site\n") && !bundle.contains("overcoat"));
        let list = stage.archive_listing(&overlay);
        let line = |path: &str| list.lines().find(|line| line.ends_with(path)).unwrap();
        assert!(line(" etc/hosts").starts_with("-rw-r-----   1 3        4 "), "{list}");
        assert!(line(" etc/resolv.conf").contains(" Feb  3  2001 "), "{list}");
    }
}

#[test]
fn descriptors_and_bind_mounts_of_a_lent_file_stay_the_file_of_the_image() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let later = |path: &str, append: &str, first: &str, second: &str| {
        format!(
            "setsid sh -c 'exec 3{append}{path}; {first} >&3; until [ -e /go ]; do sleep 0.1; done
                           {second} >&3; rm /go' </dev/null >/dev/null 2>&1 & sleep 0.3"
        )
    };
    let wait = "touch /go; for try in $(seq 100); do [ ! -e /go ] || sleep 0.1; done; [ ! -e /go ]";
    let mount = "mkdir -p /srv/c; echo '1.1.1.1 a' >>/etc/hosts; touch /srv/c/hosts
                 mount --bind /etc/hosts /srv/c/hosts";
    let by_mount = "echo '3.3.3.3 c' >>/etc/hosts; echo '4.4.4.4 d' >>/srv/c/hosts
                    tail -n 1 /etc/hosts | grep -qx '4.4.4.4 d'
                    echo '5.5.5.5 e' >>/etc/hosts; grep -qx '5.5.5.5 e' /srv/c/hosts
                    chmod 600 /srv/c/hosts; [ $(stat -c %a /etc/hosts) = 600 ]
                    chown 3 /etc/hosts; [ $(stat -c %a /srv/c/hosts) = 600 ]; umount /srv/c/hosts";
    for who in EACH_PRIVILEGE {
        let (overlay, finished) = build(&stage, who, "", &[mount, by_mount]);
        finished.ok();
        let hosts = "1.1.1.1 a\n3.3.3.3 c\n4.4.4.4 d\n5.5.5.5 e\n";
        assert_eq!(stage.archived_file(&overlay, "etc/hosts"), hosts);
        let list = stage.archive_listing(&overlay);
        let line = list.lines().find(|line| line.ends_with(" etc/hosts")).unwrap();
        assert!(line.starts_with("-rw-------   1 3 "), "{list}");

        // Unchanged, and lent again with other lines, before the first write.
        let rename = "mkdir /srv/c; touch /srv/c/hosts; mount --bind /etc/hosts /srv/c/hosts
                      echo other >/etc/hostname";
        let first =
            "grep -q other /srv/c/hosts; echo '1.1.1.1 a' >>/srv/c/hosts; umount /srv/c/hosts
                     [ $(cat /etc/hosts | wc -l) = 1 ]";
        let (overlay, finished) = build(&stage, who, "", &[rename, first]);
        finished.ok();
        assert_eq!(stage.archived_file(&overlay, "etc/hosts"), "1.1.1.1 a\n");

        let append = later("/etc/hosts", ">>", "echo 1.1.1.1 a", "echo 2.2.2.2 b");
        let by_process = format!("echo '3.3.3.3 c' >>/etc/hosts; {wait}");
        let (overlay, finished) = build(&stage, who, "", &[&append, &by_process]);
        finished.ok();
        let hosts = "1.1.1.1 a\n3.3.3.3 c\n2.2.2.2 b\n";
        assert_eq!(stage.archived_file(&overlay, "etc/hosts"), hosts);

        // A link, a rename, and a file that is cut, from a file that each step lends again.
        let cut = later("/etc/resolv.conf", ">", "echo options ndots:3", "echo options rotate");
        let several =
            ["echo 'options timeout:2' >>/etc/resolv.conf", "ln /etc/resolv.conf /srv/r", wait];
        let scripts: Vec<&str> = std::iter::once(cut.as_str()).chain(several).collect();
        let (overlay, finished) = build(&stage, who, "", &scripts);
        finished.ok();
        let both = ["etc/resolv.conf", "srv/r"].map(|path| stage.archived_file(&overlay, path));
        assert_eq!(both.concat(), "options ndots:3\noptions rotate\n:2\n");
    }
}

#[test]
fn file_that_the_image_lacks_has_the_mode_that_the_program_asks_for() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let create = "python3 -c \"
import os
os.close(os.open('/etc/apt/apt.conf', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))
\"";
    let sparse = "python3 -c \"
import os
f = os.open('/usr/sbin/policy-rc.d', os.O_RDWR | os.O_CREAT, 0o600)
os.pwrite(f, b'#', 10)
\"";
    /// The path, mode and content of a file of the image.
    type ImageFile<'a> = (&'a str, &'a str, &'a str);
    let cases: [(&str, &[ImageFile<'_>]); 8] = [
        (
            "printf '#!/bin/sh\\nexit 101\\n' >/srv/x; chmod 755 /srv/x; cp /srv/x /usr/sbin/policy-rc.d
             cp /srv/x /usr/bin/systemd-detect-virt; chmod 600 /srv/x; cp /srv/x /etc/apt/apt.conf
             cp /srv/x /tmp/x; cp /tmp/x /etc/hosts",
            &[
                ("usr/sbin/policy-rc.d", "-rwxr-xr-x", "#!/bin/sh\nexit 101\n"),
                ("usr/bin/systemd-detect-virt", "-rwxr-xr-x", "#!/bin/sh\nexit 101\n"),
                ("etc/apt/apt.conf", "-rw-------", "#!/bin/sh\nexit 101\n"),
                ("etc/hosts", "-rw-------", "#!/bin/sh\nexit 101\n"),
            ],
        ),
        (
            "umask 077; echo '// x' >/etc/apt/apt.conf; echo '1.1.1.1 a' >>/etc/hosts",
            &[("etc/apt/apt.conf", "-rw-------", "// x\n"), ("etc/hosts", "-rw-------", "1.1.1.1 a\n")],
        ),
        ("umask 002; echo '1.1.1.1 a' | tee -a /etc/hosts", &[("etc/hosts", "-rw-rw-r--", "1.1.1.1 a\n")]),
        (create, &[("etc/apt/apt.conf", "-rw-r-----", "")]),
        (sparse, &[("usr/sbin/policy-rc.d", "-rw-------", "\0\0\0\0\0\0\0\0\0\0#")]),
        (": >>/etc/hosts; touch /etc/apt/apt.conf", &[("etc/hosts", "-rw-r--r--", ""), ("etc/apt/apt.conf", "-rw-r--r--", "")]),
        ("truncate -s 40000 /etc/hosts", &[("etc/hosts", "-rw-r--r--", &*"\0".repeat(40000))]),
        // A file is mounted over the lent one.
        (
            "touch /srv/x; mount --bind /srv/x /etc/hosts; echo x >>/etc/hosts; umount /etc/hosts",
            &[("srv/x", "-rw-r--r--", "x\n")],
        ),
    ];
    for who in EACH_PRIVILEGE {
        for (script, files) in &cases {
            let (overlay, finished) = build(&stage, who, "", &["true", script]);
            finished.ok();
            let list = stage.archive_listing(&overlay);
            for (path, mode, content) in *files {
                let line = list.lines().find(|line| line.ends_with(&format!(" {path}")));
                let line = line.unwrap_or_else(|| panic!("{script}: {path}: {list}"));
                assert!(line.starts_with(mode), "{script}: {line}");
                assert_eq!(stage.archived_file(&overlay, path), *content, "{script}: {path}");
            }
        }
    }
}

#[test]
fn cut_and_extended_lent_files_keep_the_content_of_the_image() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let size_is = |path: &str, size: u32| format!("[ $(stat -c %s {path}) = {size} ]");
    let scripts = [
        "echo 'options edns0' >/etc/resolv.conf; echo '203.0.113.1 one' >/etc/hosts".to_owned(),
        format!("truncate -s 5 /etc/resolv.conf; {}", size_is("/etc/resolv.conf", 5)),
        format!("truncate -s 4096 /etc/hosts; {}", size_is("/etc/hosts", 4096)),
    ];
    let scripts: Vec<&str> = scripts.iter().map(String::as_str).collect();
    for who in BOTH_USERS {
        let (overlay, finished) = build(&stage, who, "", &scripts);
        finished.ok();
        assert_eq!(stage.archived_file(&overlay, "etc/resolv.conf"), "optio");
        let hosts = stage.archived_file(&overlay, "etc/hosts");
        let zeros = hosts.strip_prefix("203.0.113.1 one\n").unwrap();
        assert!(!zeros.is_empty() && zeros.bytes().all(|byte| byte == 0), "{hosts:?}");
    }
}

#[test]
fn script_that_moves_itself_is_in_the_overlay() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    for who in BOTH_USERS {
        let script = "mv \"$0\" /usr/local/bin/tool";
        let (overlay, finished) = build(&stage, who, "", &[script]);
        finished.ok();
        let tool = stage.archived_file(&overlay, "usr/local/bin/tool");
        assert_eq!(tool, format!("#!/bin/sh -eu\n{script}\n"));
    }
}

#[test]
fn lines_that_a_step_writes_are_never_taken_for_lent_ones() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let lines = ["", " ", "\\t", " \\t"].map(|end| format!("nameserver {SERVER}{end}\\n"));
    let lines = lines.concat();
    let script = format!("printf '{lines}' | tee /etc/other.conf >/etc/resolv.conf");
    let scripts = [script.as_str(), "cat /etc/other.conf >>/etc/resolv.conf"];
    for who in BOTH_USERS {
        let (overlay, finished) = build(&stage, who, "", &scripts);
        finished.ok();
        let wanted = lines.replace("\\t", "\t").replace("\\n", "\n");
        assert_eq!(stage.archived_file(&overlay, "etc/other.conf"), wanted);
        assert_eq!(stage.archived_file(&overlay, "etc/resolv.conf"), wanted.repeat(2));
    }
}

#[test]
fn attributes_and_outside_scripts_change_the_file_of_the_image() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    stage.write("pack/x.sh", "#!/bin/sh -eu\necho '203.0.113.9 nine' >>$OVERCOAT_ROOT/etc/hosts\n");
    stage.write("pack/files/etc/hosts", "127.0.0.1 localhost\n");
    let provisioner = "files: files\n\
                       attributes: {/etc/hosts: {mode: \"0600\"}, /etc/resolv.conf: {mode: \"0640\"}}\n\
                       scripts: [{path: x.sh, outside: true}]\n";
    stage.write("pack/provisioner.yml", provisioner);
    let text = format!("base: {}\nprovisioner: pack\n", stage.debian().display());
    let image = stage.write("image.yml", text);
    for who in BOTH_USERS {
        let overlay = stage.out(who).join("attributes.cpio.gz");
        finish(&mut build_command(&stage, who, &image, &overlay)).ok();
        let hosts = "127.0.0.1 localhost\n203.0.113.9 nine\n";
        assert_eq!(stage.archived_file(&overlay, "etc/hosts"), hosts);
        let list = stage.sh(&format!("gzip -dc '{}' | cpio -itv --quiet", overlay.display()));
        let line = |path: &str| list.lines().find(|line| line.ends_with(path)).unwrap();
        assert!(line(" etc/hosts").starts_with("-rw-------"), "{list}");
        assert!(line(" etc/resolv.conf").starts_with("-rw-r-----"), "{list}");
    }
}

#[test]
fn lines_of_the_image_are_visible_and_editable_in_a_lent_file() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let scripts = [
        "printf 'nameserver 10.0.0.1\\nnameserver 10.0.0.2\\n' >/etc/resolv.conf
         : >/etc/hosts; echo 'Acquire::http::Proxy \"http://site:1\";' >/etc/apt/apt.conf",
        "sed -i s/10.0.0.1/10.0.0.3/ /etc/resolv.conf; sed -i s/x/y/ /etc/hosts
         grep -q '^nameserver 10.0.0.2' /etc/resolv.conf || exit 3
         cp /etc/hosts /etc/hosts.orig; cp /etc/resolv.conf /etc/resolv.bak",
        "grep -v '^#' /etc/resolv.conf >/n; cat /n >/etc/resolv.conf; rm /n",
        "truncate -s +1 /etc/apt/apt.conf; rm -rf /etc/apt/sources.list.d",
    ];
    let look = "apt-config dump Acquire::http::Proxy | grep -q 192.0.2.80";
    let scripts: Vec<&str> = scripts.into_iter().chain([look]).collect();
    for who in BOTH_USERS {
        let proxy = "apt_proxy: http://192.0.2.80:3142\n";
        let (overlay, finished) = build(&stage, who, proxy, &scripts);
        let finished = finished.ok();
        assert!(!finished.stderr.contains("warning"), "{}", finished.stderr);
        let resolv = "nameserver 10.0.0.3\nnameserver 10.0.0.2\n";
        assert_eq!(stage.archived_file(&overlay, "etc/resolv.conf"), resolv);
        assert_eq!(stage.archived_file(&overlay, "etc/resolv.bak"), resolv);
        let conf = "Acquire::http::Proxy \"http://site:1\";\n\0";
        assert_eq!(stage.archived_file(&overlay, "etc/apt/apt.conf"), conf);
        let names = names(&stage, &overlay);
        assert!(names.contains("etc/hosts ") && names.contains("etc/hosts.orig"), "{names}");
    }
}

#[test]
fn hard_links_and_links_to_proc_are_lent() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let look = format!("grep -q '^nameserver {SERVER} *$' /etc/resolv.conf");
    let link = "echo 'nameserver 10.0.0.1' >/etc/resolv.conf; ln /etc/resolv.conf /etc/orig
                ! echo x >>/etc/resolv.conf || grep -q ^x /etc/orig";
    let busy = "! (echo lost >>/etc/resolv.conf) 2>/dev/null";
    for who in BOTH_USERS {
        build(&stage, who, "", &[link, &look, busy]).1.ok();
        let (overlay, finished) =
            build(&stage, who, "", &["ln -sf /proc/net/pnp /etc/resolv.conf", &look, busy]);
        finished.ok();
        assert_eq!(names(&stage, &overlay), ". etc etc/resolv.conf");
    }
}

#[test]
fn a_removed_directory_with_a_lent_file_is_one_deletion() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    for who in BOTH_USERS {
        let (overlay, finished) = build(&stage, who, "", &["rm -rf /etc/apt", "true"]);
        finished.ok();
        assert_eq!(names(&stage, &overlay), ". etc etc/apt");
    }
}

#[test]
fn recursive_attribute_changes_keep_files_lent() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let own = "echo 'nameserver 10.0.0.53' >/etc/resolv.conf; chmod 640 /etc/resolv.conf";
    let trees = format!(
        "chown -R root:root /etc /usr/sbin; chmod -R go-w /etc/apt
         find /etc/apt /etc/hosts /usr/sbin/policy-rc.d -exec touch -h -d '2001-02-03 UTC' {{}} +
         chown 3:4 /etc/resolv.conf
         grep -q {SERVER} /etc/resolv.conf; [ $(stat -c %a:%u:%g /etc/resolv.conf) = 640:3:4 ]"
    );
    for who in BOTH_USERS {
        let (overlay, finished) = build(&stage, who, "", &[own, &trees]);
        finished.ok();
        assert_eq!(stage.archived_file(&overlay, "etc/resolv.conf"), "nameserver 10.0.0.53\n");
        let list = stage.archive_listing(&overlay);
        let resolv = list.lines().find(|line| line.ends_with(" etc/resolv.conf")).unwrap();
        assert!(resolv.starts_with("-rw-r-----   1 3        4 "), "{list}");
        for absent in ["etc/hosts", "policy-rc.d", "etc/apt/apt.conf\n"] {
            assert!(!list.contains(absent), "{list}");
        }
    }
}

#[test]
fn lent_files_exist_in_every_step() {
    let stage = stage_with(&format!("search lab.example\nnameserver {SERVER}\n"));
    let host = stage.write("host.pem", certificate("HOST"));
    let look = format!(
        "grep -q '^nameserver {SERVER} *$' /etc/resolv.conf
         cat /etc/ssl/certs/ca-certificates.crt $SSL_CERT_FILE 2>/dev/null | grep -q HOST
         apt-config dump | grep -q 'Acquire::http::Proxy \"http://192.0.2.80:3142\"'
         getent ahostsv4 $(hostname) >/dev/null
         policy-rc.d ssh start && exit 1 || [ $? = 101 ]"
    );
    let look = look.as_str();
    let scripts = [
        look,
        "rm /etc/resolv.conf /etc/ssl/certs/ca-certificates.crt /usr/sbin/policy-rc.d",
        look,
        "echo 'nameserver 192.0.2.53' >/n; mv /n /etc/resolv.conf; cp /etc/passwd /n
         mv /n /etc/ssl/certs/ca-certificates.crt; rm -f /etc/apt/apt.conf.d/*",
        look,
        "ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf; rm -rf /etc/apt/apt.conf.d",
        look,
        "ln -sf /srv/resolv/conf /etc/resolv.conf; rm -rf /etc/ssl; ln -s /srv/ssl /etc/ssl",
        look,
        "ln -sfn ssl /etc/ssl",
        look,
        "rm /etc/ssl; mv /etc/apt /srv/apt; ln -s /srv/apt /etc/apt; rm /etc/hosts; echo >/etc/hosts",
        look,
    ];
    for who in BOTH_USERS {
        let image = image(&stage, "apt_proxy: http://192.0.2.80:3142\n", &scripts);
        let overlay = stage.out(who).join("each.cpio.gz");
        let mut command = build_command(&stage, who, &image, &overlay);
        finish(command.env("SSL_CERT_FILE", &host)).ok();
        let names = names(&stage, &overlay);
        for absent in ["apt/apt.conf ", "policy-rc.d", "srv/resolv", "srv/ssl", "stub-resolv.conf"]
        {
            assert!(!names.contains(absent), "{absent}: {names}");
        }
        assert_eq!(stage.archived_file(&overlay, "etc/hosts"), "\n");
    }
}

#[test]
fn resolved_link_is_kept_and_is_the_only_change() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let link = "ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf";
    let look = format!("[ -L /etc/resolv.conf ] && grep -q {SERVER} /etc/resolv.conf");
    for who in BOTH_USERS {
        let (overlay, finished) = build(&stage, who, "", &[link, &look]);
        finished.ok();
        assert_eq!(names(&stage, &overlay), ". etc etc/resolv.conf");
    }
}

#[test]
fn directories_made_by_a_step_are_in_the_overlay() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    stage.sh("mkdir -p base/bin base/etc base/opt base/usr; cp /bin/busybox base/bin
              ln -s busybox base/bin/sh; chmod -R a+rX base");
    let base = stage.path("base");
    let script = "/bin/busybox mkdir -p /etc/ssl/certs /usr/sbin; /bin/busybox mkdir /etc/apt
                  echo x >/etc/apt/sources.list; echo y >/opt/app/config";
    for who in BOTH_USERS {
        let overlay = stage.out(who).join("lacks.cpio.gz");
        let mut command = stage.overcoat(who);
        command.arg("run").arg(&base).args(["--bind", "/srv:/opt/app/src", "--save"]);
        finish(command.arg(&overlay).args(["--", "/bin/sh", "-euc", script])).ok();
        assert_eq!(
            names(&stage, &overlay),
            ". etc etc/apt etc/apt/sources.list etc/ssl etc/ssl/certs opt opt/app opt/app/config \
             usr usr/sbin"
        );
    }
}

#[test]
fn policy_of_the_image_is_kept_and_forbids_services() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let own = "printf '#!/bin/sh\\n# site policy\\nexit 0\\n' >/usr/sbin/policy-rc.d
               chmod 755 /usr/sbin/policy-rc.d";
    let edit = "sed -i '2i case $1 in ssh) exit 0;; esac' /usr/sbin/policy-rc.d";
    let append = "echo 'exit 104' >>/usr/sbin/policy-rc.d; cp /usr/sbin/policy-rc.d /srv/copy";
    let ask = "cd /usr/sbin; for policy in /usr/sbin/policy-rc.d policy-rc.d ./policy-rc.d; do
                 $policy ssh start && exit 1 || [ $? = 101 ]
               done; [ \"$(sh ./policy-rc.d ssh; echo $?)\" = 0 ]";
    let link = "ln -sf /bin/true /usr/sbin/policy-rc.d";
    let ask_link = "policy-rc.d ssh start && exit 1 || [ $? = 101 ]";
    for who in EACH_PRIVILEGE {
        let (overlay, finished) = build(&stage, who, "", &[own, edit, append, ask]);
        let finished = finished.ok();
        assert!(!finished.stderr.contains("warning"), "{}", finished.stderr);
        let policy = "#!/bin/sh\ncase $1 in ssh) exit 0;; esac\n# site policy\nexit 0\nexit 104\n";
        assert_eq!(stage.archived_file(&overlay, "usr/sbin/policy-rc.d"), policy);
        assert_eq!(stage.archived_file(&overlay, "srv/copy"), policy);
        build(&stage, who, "", &[link, ask_link]).1.ok();
    }
}

#[test]
fn program_behind_a_link_is_not_lent() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let scripts = ["ln -sf /bin/true /usr/sbin/policy-rc.d", "/bin/true"];
    for who in BOTH_USERS {
        let (overlay, finished) = build(&stage, who, "", &scripts);
        finished.ok();
        assert_eq!(names(&stage, &overlay), ". usr usr/sbin usr/sbin/policy-rc.d");
    }
}

#[test]
fn hard_link_to_a_lent_file_is_one_file() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let scripts = ["ln /etc/hosts /etc/hosts2", "echo '203.0.113.1 one' >>/etc/hosts2"];
    for who in BOTH_USERS {
        let (overlay, finished) = build(&stage, who, "", &scripts);
        finished.ok();
        assert_eq!(names(&stage, &overlay), ". etc etc/hosts etc/hosts2");
        // Only one of the names has the content in an archive.
        let both = ["etc/hosts", "etc/hosts2"].map(|path| stage.archived_file(&overlay, path));
        assert_eq!(both.concat(), "203.0.113.1 one\n");
    }
}

#[test]
fn certificates_of_the_image_and_of_the_host_are_trusted_together() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let host = stage.write("host.pem", certificate("HOST"));
    let look = "for one in HOST IMAGE; do
           grep -q $one /etc/ssl/certs/ca-certificates.crt
           grep -q $one \"$SSL_CERT_FILE\" || [ $one = IMAGE ]
         done; [ $(grep -c 'HOST' /etc/ssl/certs/ca-certificates.crt) = 1 ]";
    let image_has =
        format!("printf -- '{}' >>/etc/ssl/certs/ca-certificates.crt", certificate("IMAGE"))
            .replace('\n', "\\n");
    // Like update-ca-certificates after a package added the host's authority to the image.
    let both = format!(
        "printf -- '{}{}' >/n; mv /n /etc/ssl/certs/ca-certificates.crt",
        certificate("IMAGE"),
        certificate("HOST")
    )
    .replace('\n', "\\n");
    for who in BOTH_USERS {
        for (last, has_host) in [("", false), (both.as_str(), true)] {
            let image = image(&stage, "", &[&image_has, look, last, look]);
            let overlay = stage.out(who).join("certificates.cpio.gz");
            let mut command = build_command(&stage, who, &image, &overlay);
            finish(command.env("SSL_CERT_FILE", &host)).ok();
            let bundle = stage.archived_file(&overlay, "etc/ssl/certs/ca-certificates.crt");
            assert_eq!((bundle.contains("IMAGE"), bundle.contains("HOST")), (true, has_host));
        }
    }
}

#[test]
fn every_task_of_a_role_has_the_name_servers_of_the_host() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let tasks = format!(
        "- copy: {{content: \"nameserver 10.0.0.53\\n\", dest: /etc/resolv.conf}}
- command: grep -q {SERVER} /etc/resolv.conf
- lineinfile: {{path: /etc/resolv.conf, line: \"options ndots:2\"}}
- command: grep -q {SERVER} /etc/resolv.conf
- lineinfile: {{path: /etc/hosts, line: \"192.0.2.5 nfs\", create: true}}
"
    );
    stage.write("role/tasks/main.yml", tasks);
    let base = stage.debian();
    let text = format!("base: {}\nprovisioner: role\n", base.display());
    let image = stage.write("role.yml", text);
    let overlay = stage.out(Who::Unprivileged).join("role.cpio.gz");
    finish(&mut build_command(&stage, Who::Unprivileged, &image, &overlay)).ok();
    let resolv = stage.archived_file(&overlay, "etc/resolv.conf");
    assert_eq!(resolv, "nameserver 10.0.0.53\noptions ndots:2\n");
    assert_eq!(stage.archived_file(&overlay, "etc/hosts"), "192.0.2.5 nfs\n");
}

#[test]
fn image_without_systemd_is_detected_as_a_container() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let ask = "[ $(systemd-detect-virt) = container-other ] && systemd-detect-virt -q --container
               ! systemd-detect-virt --vm >/dev/null && systemd-detect-virt -r";
    let own = "echo '#!/bin/sh' >/usr/bin/systemd-detect-virt
               [ ! -x /usr/bin/systemd-detect-virt ]; chmod 755 /usr/bin/systemd-detect-virt";
    for who in BOTH_USERS {
        let (overlay, finished) = build(&stage, who, "", &[ask, own, "systemd-detect-virt"]);
        finished.ok();
        assert_eq!(stage.archived_file(&overlay, "usr/bin/systemd-detect-virt"), "#!/bin/sh\n");
    }
}

#[test]
fn copies_of_the_devices_of_the_host_belong_to_root() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    for who in EACH_PRIVILEGE {
        let script = "cp -a /dev/null /srv/null; tar -C /dev -c zero | tar -C /srv -xp
                      cp -a /host/own /srv/own; tar -C /host -c other | tar -C /srv -xp
                      cp -a /host/given /srv/given; chown 0:0 /srv/given
                      su nobody -s /bin/sh -c 'echo >/tmp/n; mkdir /tmp/state'
                      mv /tmp/n /tmp/state /srv; mkdir /srv/tftp; chown nobody:nogroup /srv/tftp
                      touch -d @1500000000 /srv/package; chown nobody:mail /srv/package";
        stage.write("host/own", "1");
        stage.write("host/other", "2");
        stage.write("host/given", "3");
        stage.sh("touch -d @1500000000 host/*");
        let bind = format!("{}:/host:ro", stage.path("host").display());
        let image = image(&stage, "", &[script]);
        let overlay = stage.out(who).join("lending.cpio.gz");
        let mut command = build_command(&stage, who, &image, &overlay);
        let finished = finish(command.args(["--bind", &bind]));
        let list = stage.archive_listing(&overlay);
        for name in ["null", "zero"] {
            let line = list.lines().find(|line| line.ends_with(name)).unwrap();
            let owner: Vec<&str> = line.split_whitespace().skip(2).take(2).collect();
            assert_eq!(owner, ["0", "0"], "{list}");
        }
        let finished = finished.ok();
        let warned = finished.stderr.contains("warning: /srv/other, /srv/own: owned by 65534");
        assert_eq!(warned, who != Who::Root, "{}", finished.stderr);
    }
}

#[test]
fn unchanged_lent_file_is_not_in_the_overlay() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    for who in BOTH_USERS {
        let read = "cat /etc/resolv.conf /etc/hosts /usr/sbin/policy-rc.d >/dev/null; ls -lR /etc >/dev/null";
        let (overlay, finished) =
            build(&stage, who, "", &[read, "mv /etc/hosts /h; mv /h /etc/hosts"]);
        finished.ok();
        let names = names(&stage, &overlay);
        assert!(!names.contains("etc/") && !names.contains("overcoat"), "{names}");
        fs::remove_file(overlay).unwrap();
    }
}
