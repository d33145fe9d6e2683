//! Values of the host do not reach an image: not by lent files, their copies, or the environment of
//! a build.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::lending::{SERVER, build, build_command, certificate, image, names, stage_with};
use crate::support::stage::{BOTH_USERS, EPOCH, bind, finish};

/// Returns the warnings in the JSON reports that a build printed.
fn warnings_of_reports(stdout: &str) -> Vec<String> {
    let reports = stdout.lines().map(|line| serde_json::from_str(line).unwrap());
    let warnings = reports.flat_map(|report: serde_json::Value| {
        report["warnings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|w| w.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    });
    warnings.collect()
}

#[test]
fn settings_of_apt_on_the_host_are_in_no_image() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let conf = stage.write(
        "host/apt.conf",
        "Acquire::http::Referer \"http://portal.example/\";\nAcquire::http::Timeout \"77\";\n\
         Acquire::http::Proxy::mirror.example \"DIRECT\";\n",
    );
    let scripts = [
        "grep -v '^//' /etc/apt/apt.conf >/etc/apt/a; mv /etc/apt/a /etc/apt/apt.conf",
        "echo 'Acquire::Languages \"none\";' >>/etc/apt/apt.conf",
        "sed -i 's,^//.*,,' /etc/apt/apt.conf; cp /etc/apt/apt.conf /etc/apt/copy",
        "cp /etc/apt/apt.conf /etc/apt/again; grep -v overcoat /etc/hosts >/srv/hosts
         sed 's/^#.*//' /etc/hosts >/srv/more",
    ];
    let dump = "apt-config dump >/srv/dump";
    for who in BOTH_USERS {
        let image = image(&stage, "", &scripts);
        let overlay = stage.out(who).join("settings.cpio.gz");
        let mut command = build_command(&stage, who, &image, &overlay);
        let finished = finish(command.env("APT_CONFIG", &conf)).ok();
        assert!(!finished.stderr.contains("warning"), "{}", finished.stderr);
        for path in ["etc/apt/apt.conf", "etc/apt/copy", "etc/apt/again"] {
            let text = stage.archived_file(&overlay, path);
            assert_eq!(text.trim(), "Acquire::Languages \"none\";", "{path}: {text:?}");
        }
        for path in ["srv/hosts", "srv/more"] {
            let names = names(&stage, &overlay);
            assert!(!names.contains(path) || stage.archived_file(&overlay, path).trim().is_empty());
        }

        let image = self::image(&stage, "", &[dump]);
        let mut command = build_command(&stage, who, &image, &overlay);
        let finished = finish(command.env("APT_CONFIG", &conf)).ok().stderr_has(&[
            "/srv/dump: it contains http://portal.example/, a setting of apt of this host",
            "/srv/dump: it contains Acquire::http::Timeout, a setting of apt of this host",
            "/srv/dump: it contains Acquire::http::Proxy::mirror.example, the name of a setting",
        ]);
        // Each host has the default settings of apt.
        assert!(!finished.stderr.contains("Acquire::Allow"), "{}", finished.stderr);
    }
}

#[test]
fn files_taken_out_of_a_root_contain_nothing_that_was_lent() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let script = "cp /etc/resolv.conf /boot/resolv; cp /etc/apt/apt.conf /boot/apt
                  gzip -c /etc/resolv.conf >/boot/packed; awk '/^nameserver/ { print $2 }' \
                  /etc/resolv.conf >/boot/server; echo 'options edns0' >>/boot/resolv";
    let settings = "kind: initrd\nnetwork: host\napt_proxy: http://192.0.2.80:3142\n\
                    yields: {resolv: /boot/resolv, apt: /boot/apt, packed: /boot/packed, \
                    server: /boot/server}\n";
    for who in BOTH_USERS {
        let out = stage.out(who);
        let settings = format!("{settings}output: {}\n", out.display());
        let image = image(&stage, &settings, &[script]);
        let mut command = stage.overcoat(who);
        command.arg("build").arg(&image).arg("--json").env("SOURCE_DATE_EPOCH", EPOCH);
        let finished = finish(&mut command).ok().stderr_has(&[
            "warning: /boot/packed: it contains a copy of a file that is shown during the build",
            "warning: /boot/server: it contains 192.0.2.11, the address of a name server",
        ]);
        let warned = warnings_of_reports(&finished.text());
        assert_eq!(warned.len(), 2, "{warned:?}");
        assert!(warned.iter().any(|warning| warning.starts_with("/boot/server: it contains")));
        let content = |name: &str| fs::read_to_string(out.join(name)).unwrap();
        assert!(content("resolv").ends_with("options edns0\n"));
        assert!(!content("resolv").contains(SERVER) && !content("resolv").contains('#'));
        assert_eq!(content("apt"), "");
    }
}

#[test]
fn builds_on_different_hosts_have_the_same_bytes() {
    let scripts = [
        "cp /etc/resolv.conf /etc/copied; cp -a /etc/hosts /etc/hosts.bak; mv /etc/resolv.conf /r
         cp -r /etc/apt/apt.conf.d /srv; cat /etc/ssl/certs/ca-certificates.crt >/srv/bundle.pem
         sed -i 's/^#none//' /etc/resolv.conf /etc/hosts 2>/dev/null || :",
        "hostname >/srv/name; hostname -f >>/srv/name; hostname -d >>/srv/name; date +%Z >>/srv/name
         locale >>/srv/name; id -un >>/srv/name; cat /etc/timezone >>/srv/name 2>&1 || :
         cat /etc/hostname >>/srv/name 2>&1 || :; getent ahostsv4 $(hostname) >>/srv/name",
        "sed 's/^nameserver/& /' /etc/resolv.conf >/dev/null; cat /etc/resolv.conf >>/etc/copied
         echo 'options ndots:1' >>/etc/resolv.conf; sed -i 's/ndots:1/ndots:2/' /etc/resolv.conf",
    ];
    let mut digests = Vec::new();
    let hosts = [
        ("nameserver 192.0.2.11\n", "UTC", "C", "one", ""),
        (
            "# of the builder\ndomain builder.example\nnameserver 192.0.2.12\nnameserver 192.0.2.13\n\
             search builder.example lab.example\noptions edns0 trust-ad\n",
            "Asia/Tokyo",
            "de_DE.UTF-8",
            "two.builder.example",
            "http://192.0.2.80:3142",
        ),
    ];
    for (resolv, zone, locale, name, proxy) in hosts {
        let stage = stage_with(resolv);
        let own = stage.write("own.pem", certificate(&format!("OWN{}", name.len())));
        bind(&stage.write("host/hostname", name), Path::new("/etc/hostname"));
        let hosts = stage.write("host/hosts", format!("127.0.0.1 localhost {name}\n"));
        bind(&hosts, Path::new("/etc/hosts"));
        let settings = match proxy {
            "" => String::new(),
            proxy => format!("apt_proxy: {proxy}\n"),
        };
        let image = image(&stage, &settings, &scripts);
        for who in BOTH_USERS {
            let overlay = stage.out(who).join("same.cpio.gz");
            let build = build_command(&stage, who, &image, &overlay);
            let mut command = Command::new("unshare");
            command.args(["--uts", "sh", "-c", "hostname \"$0\"; exec \"$@\"", name]);
            command.arg(build.get_program()).args(build.get_args());
            command.current_dir(build.get_current_dir().unwrap());
            for (variable, value) in build.get_envs() {
                match value {
                    Some(value) => command.env(variable, value),
                    None => command.env_remove(variable),
                };
            }
            command.env("TZ", zone).env("LANG", locale).env("LC_ALL", locale);
            command.env("USER", name).env("LOGNAME", name).env("SSL_CERT_FILE", &own);
            let finished = finish(&mut command).ok();
            let warned = finished.stderr.matches("warning").count();
            assert_eq!(warned, 0, "{}", finished.stderr);
            digests
                .push((name, stage.sh(&format!("gzip -dc '{}' | sha256sum", overlay.display()))));
        }
    }
    assert!(digests.iter().all(|(_, digest)| *digest == digests[0].1), "{digests:?}");
}

#[test]
fn copies_with_host_values_are_reported() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let scripts = [
        "tar -cf /srv/etc.tar /etc/hosts",
        "awk '/^nameserver/ { print \"server=\" $2 }' /etc/resolv.conf >/etc/dns.conf",
        "tar -C / -cz etc | dd of=/srv/etc.tgz; gzip -c /etc/dns.conf >/srv/dns.gz",
        "sed -i '/^nameserver/s/$/ # checked/' /etc/resolv.conf",
    ];
    for who in BOTH_USERS {
        let image = image(&stage, "", &scripts);
        let overlay = stage.out(who).join("copies.cpio.gz");
        let mut command = build_command(&stage, who, &image, &overlay);
        let finished = finish(command.arg("--json")).ok();
        let warned = warnings_of_reports(&finished.text());
        let finished = finished.stderr_has(&[
            "warning: /srv/etc.tar: it contains a copy of a file that is shown during the build",
            "warning: /etc/dns.conf: it contains 192.0.2.11, the address of a name server",
            "warning: /srv/etc.tgz: it contains a copy of a file that is shown during the build",
            "warning: /srv/dns.gz: it contains 192.0.2.11, the address of a name server",
            "warning: /etc/resolv.conf: a program edited lines that are shown during the build",
        ]);
        let printed = finished.stderr.lines().filter_map(|line| line.split_once("warning: "));
        let printed: Vec<&str> = printed.map(|(_, warning)| warning).collect();
        assert_eq!(warned, printed);
    }
}

#[test]
fn lines_that_equal_those_of_the_host_belong_to_the_image() {
    let stage = stage_with(&format!("nameserver {SERVER}\nnameserver 192.0.2.12\n"));
    let add = |line: &str, file: &str| {
        format!("grep -qxF \"$(printf '{line}')\" {file} || printf '{line}\\n' >>{file}")
    };
    let scripts = [
        &format!("printf 'nameserver {SERVER}\\nnameserver 192.0.2.10\\n' >/etc/resolv.conf"),
        &add("nameserver 192.0.2.12", "/etc/resolv.conf"),
        "sort -o /etc/resolv.conf /etc/resolv.conf",
        "sed -i s/no/matter/ /etc/resolv.conf",
        &add("127.0.0.1\\tlocalhost", "/etc/hosts"),
        "printf '203.0.113.1 no-newline' >/etc/hosts",
        "[ -z \"$(tail -c 1 /etc/hosts)\" ] || echo >>/etc/hosts; echo '203.0.113.2 two' >>/etc/hosts",
        "printf '203.0.113.3 three' >>/etc/hosts",
        "sed -i '$a 203.0.113.4 four' /etc/hosts",
    ];
    for who in BOTH_USERS {
        let (overlay, finished) = build(&stage, who, "", &scripts);
        let finished =
            finished.ok().stderr_has(&["warning: /etc/resolv.conf: a program edited lines"]);
        // A value in the provisioner's own files is there on purpose.
        assert!(!finished.stderr.contains("it contains"), "{}", finished.stderr);
        let resolv = format!("nameserver 192.0.2.10\nnameserver {SERVER}\nnameserver 192.0.2.12\n");
        assert_eq!(stage.archived_file(&overlay, "etc/resolv.conf"), resolv);
        let hosts =
            "203.0.113.1 no-newline\n203.0.113.2 two\n203.0.113.3 three\n203.0.113.4 four\n";
        assert_eq!(stage.archived_file(&overlay, "etc/hosts"), hosts);
    }
}

#[test]
fn values_of_the_host_are_reported_in_names_targets_and_certificates() {
    let stage = stage_with("nameserver 2001:db8::53%eth0\noptions ndots:7\n");
    let own = stage.write("own.pem", certificate("OWNOWNOWN"));
    let scripts = [
        "server=$(awk '/^nameserver/ { split($2, part, \"%\"); print part[1]; exit }' /etc/resolv.conf)
         ln -s $server /srv/target; : >/srv/${no_proxy#localhost,.}",
        "cp $SSL_CERT_FILE /srv/bundle.pem; grep -v '^#' $SSL_CERT_FILE >/srv/own.pem; awk '/^options/ { $1 = $1; print }' /etc/resolv.conf >/srv/options",
        "echo $no_proxy >/srv/excluded; user=${http_proxy#*://}; echo ${user%%@*} >/srv/credentials",
    ];
    let image = image(&stage, "", &scripts);
    for who in BOTH_USERS {
        let overlay = stage.out(who).join("values.cpio.gz");
        let mut command = build_command(&stage, who, &image, &overlay);
        command.env("SSL_CERT_FILE", &own).env("no_proxy", "localhost,.internal.corp.example");
        command.env("http_proxy", "http://purchaser:unprinted@192.0.2.80:3128");
        let finished = finish(&mut command).ok().stderr_has(&[
            "/srv/target: its target contains 2001:db8::53, the address of a name server",
            "/srv/internal.corp.example: its name contains internal.corp.example, an entry of no_proxy",
            "/srv/own.pem: it contains a certificate that was added on this host",
            "/srv/options: it contains options ndots:7, the options of the resolver",
            "/srv/excluded: it contains internal.corp.example",
            "/srv/credentials: it contains purchaser, the user of a proxy",
            "/srv/credentials: it contains the password of a proxy",
        ]);
        assert!(!finished.stderr.contains("unprinted"), "{}", finished.stderr);
        // A copy of the lent bundle becomes a copy of the image's own.
        let bundle = stage.archived_file(&overlay, "srv/bundle.pem");
        assert!(bundle.contains("CERTIFICATE") && !bundle.contains("OWNOWNOWN"), "{bundle}");
    }
}

#[test]
fn paths_that_exist_during_the_build_only_are_reported() {
    let stage = stage_with(&format!("nameserver {SERVER}\n"));
    let own = stage.write("own.pem", certificate("OWNOWNOWN"));
    // at(1) saves the environment like this.
    let job = "/var/spool/cron/atjobs/a0000101c8e1f0";
    let save = "mkdir -p /var/spool/cron/atjobs
                env | sed -n 's/^SSL_CERT_FILE=.*/&; export SSL_CERT_FILE/p' >JOB
                echo \"# written by $0\" >/etc/written; tar -C / -cf /srv/jobs.tar JOB
                gzip -c JOB >/srv/job.gz; ln -s $SSL_CERT_FILE /etc/bundle"
        .replace("JOB", job);
    let outside = "echo \"$OVERCOAT_ROOT/.overcoat\"/x >$OVERCOAT_ROOT/etc/outside";
    stage.write("outside/provisioner.yml", "scripts: [{path: write, outside: true}]\n");
    stage.write("outside/write", outside);
    let image = image(&stage, "", &[&save, "echo /srv/.overcoat.d >/etc/other"]);
    let text = fs::read_to_string(&image).unwrap();
    let image = stage.write("image.yml", text.replace("pack", "[pack, outside]"));
    for who in BOTH_USERS {
        let overlay = stage.out(who).join("scratch.cpio.gz");
        let mut command = build_command(&stage, who, &image, &overlay);
        let finished = finish(command.env("SSL_CERT_FILE", &own)).ok();
        let bundle = "contains /.overcoat/ca-certificates.crt, which exists during the build only";
        let finished = finished.stderr_has(&[
            &format!("warning: {job}: it {bundle}"),
            &format!("warning: /srv/jobs.tar: it {bundle}"),
            &format!("warning: /srv/job.gz: it {bundle}"),
            &format!("warning: /etc/bundle: its target {bundle}"),
            "warning: /etc/written: it contains /.overcoat/",
            "warning: /etc/outside: it contains /.overcoat/x, which exists",
        ]);
        assert!(!finished.stderr.contains("/etc/other"), "{}", finished.stderr);
    }
}

#[test]
fn host_name_of_the_image_resolves() {
    // This name server refuses immediately; `getent hosts` queries an IPv6 address first.
    let stage = stage_with("search builder.example\nnameserver 127.0.0.9\n");
    let look = |name: &str| {
        format!(
            "[ $(hostname) = {name} ] && [ $(hostname -f) = {name} ] && [ -z \"$(hostname -d)\" ]
             getent hosts {name} >/dev/null && [ $(cat /proc/sys/kernel/hostname) = {name} ]"
        )
    };
    let scripts = [
        &*look("overcoat"),
        "echo node7 >/etc/hostname; echo '127.0.0.1 localhost' >/etc/hosts",
        &*look("node7"),
        "printf '# the name\\n\\nnode8\\n' >/etc/hostname; printf '127.0.1.1 node8' >/etc/hosts",
        &*look("node8"),
        "echo 'not a name' >/etc/hostname",
        &*look("overcoat"),
    ];
    let first = "rm -f /etc/hostname";
    for who in BOTH_USERS {
        for network in ["", "network: none\n"] {
            let scripts: Vec<&str> = std::iter::once(first).chain(scripts).collect();
            build(&stage, who, network, &scripts).1.ok();
        }
    }
}
