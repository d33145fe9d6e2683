//! Units, checked as systemd does.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{Pair, base};
use crate::support::newc::Archive;

/// Names and contents of units.
const UNITS: [(&str, &str); 51] = [
    ("plain.service", "[Service]\nExecStart=/usr/bin/demo\n"),
    (
        "all.service",
        "[Unit]\nDescription=a\n[Service]\nExecStart=-/usr/bin/none\n[Install]\nAlias=b.service\n",
    ),
    ("none.service", "[Unit]\nDescription=nothing to run\n"),
    ("simple.service", "[Service]\nType=simple\nExecStop=/usr/bin/demo\n"),
    ("stop.service", "[Service]\nExecStop=/usr/bin/demo\n"),
    ("stop-remains.service", "[Service]\nRemainAfterExit=yes\nExecStop=/usr/bin/demo\n"),
    ("action.service", "[Unit]\nSuccessAction=reboot\n[Service]\nType=oneshot\n"),
    ("two.service", "[Service]\nExecStart=/usr/bin/demo\nExecStart=/usr/bin/demo\n"),
    (
        "two-once.service",
        "[Service]\nType=oneshot\nExecStart=/usr/bin/demo\nExecStart=/usr/bin/demo\n",
    ),
    (
        "cleared.service",
        "[Service]\nExecStart=/usr/bin/none\nExecStart=\nExecStart=/usr/bin/demo\n",
    ),
    ("cleared-all.service", "[Service]\nExecStart=/usr/bin/demo\nExecStart=\n"),
    ("again.service", "[Service]\nType=oneshot\nRestart=always\nExecStart=/usr/bin/demo\n"),
    (
        "again-on-failure.service",
        "[Service]\nType=oneshot\nRestart=on-failure\nExecStart=/usr/bin/demo\n",
    ),
    ("bus.service", "[Service]\nType=dbus\nExecStart=/usr/bin/demo\n"),
    ("bus-name.service", "[Service]\nBusName=a.b\nExecStart=/usr/bin/demo\n"),
    ("missing.service", "[Service]\nExecStart=/usr/bin/none --a\n"),
    ("missing-before.service", "[Service]\nExecStartPre=/usr/bin/none\nExecStart=/usr/bin/demo\n"),
    ("relative.service", "[Service]\nExecStart=bin/demo\n"),
    ("special.service", "[Service]\nExecStart=+:/usr/bin/demo ${A} %i\n"),
    ("quoted.service", "[Service]\nExecStart=\"/usr/bin/demo\" 'a b'\n"),
    ("open.service", "[Service]\nExecStart=\"/usr/bin/demo\n"),
    ("open-within.service", "[Service]\nExecStart=/usr/bin/demo don't\n"),
    ("open-stop.service", "[Service]\nExecStart=/usr/bin/demo\nExecStop=/usr/bin/demo 'a\n"),
    ("closed.service", "[Service]\nExecStart=/usr/bin/demo \"don't\" a\\'b c'\"'d\n"),
    ("continued.service", "[Service]\nExecStart=/usr/bin/demo \\\n  --a \\\n# no\n  --b\n"),
    ("key.service", "[Service]\nExecStart=/usr/bin/demo\nProtectSystm=yes\n"),
    ("own-key.service", "[Service]\nExecStart=/usr/bin/demo\nX-Tool=1\n[X-Tool]\nA=1\n"),
    ("section.service", "[Service]\nExecStart=/usr/bin/demo\n[Sevice]\nA=1\n"),
    ("other-section.service", "[Service]\nExecStart=/usr/bin/demo\n[Timer]\nOnBootSec=1\n"),
    ("odd.service", "[Service]\nExecStart=/usr/bin/demo\nwhat\n"),
    ("stray.service", "Type=simple\n[Service]\nExecStart=/usr/bin/demo\n"),
    ("wants.service", "[Unit]\nWants=nobody.service\n[Service]\nExecStart=/usr/bin/demo\n"),
    ("empty.timer", "[Timer]\nUnit=plain.service\n"),
    ("boot.timer", "[Timer]\nOnBootSec=5min\nUnit=plain.service\n"),
    ("empty.socket", "[Socket]\nService=plain.service\n"),
    ("stream.socket", "[Socket]\nListenStream=/run/x\nService=plain.service\n"),
    ("empty.path", "[Path]\nUnit=plain.service\n"),
    ("single.service", "[Service]\nExecStart='/usr/bin/demo' hi\n"),
    ("reload.service", "[Service]\nExecStart=/usr/bin/demo\nExecReload=/usr/bin/none\n"),
    ("stop-missing.service", "[Service]\nExecStart=/usr/bin/demo\nExecStop=/usr/bin/none\n"),
    ("post.service", "[Service]\nExecStart=/usr/bin/demo\nExecStopPost=/usr/bin/none\n"),
    ("type.service", "[Service]\nType=foo\nExecStart=/usr/bin/demo\n"),
    ("kill.service", "[Service]\nKillMode=nonsense\nExecStart=/usr/bin/demo\n"),
    ("kill-mixed.service", "[Service]\nKillMode=mixed\nExecStart=/usr/bin/demo\n"),
    ("restart.service", "[Service]\nRestart=sometimes\nExecStart=/usr/bin/demo\n"),
    ("calendar.timer", "[Timer]\nOnCalendar=nonsense\nUnit=plain.service\n"),
    ("daily.timer", "[Timer]\nOnCalendar=Mon..Fri *-*-* 10:00 UTC\nUnit=plain.service\n"),
    ("half-year.timer", "[Timer]\nOnCalendar=semi-annually\nUnit=plain.service\n"),
    ("mnt-one.mount", "[Mount]\nWhat=/dev/sda\nWhere=/mnt/other\n"),
    ("mnt-two.mount", "[Mount]\nWhat=/dev/sda\nWhere=/mnt/two\n"),
    ("file.path", "[Path]\nPathExists=/run/x\nUnit=plain.service\n"),
];

#[test]
fn unit_faults_agree_with_systemd_analyze() {
    let mut overlay = Archive::new();
    for (name, text) in UNITS {
        overlay.file(&format!("etc/systemd/system/{name}"), text);
    }
    let pair = Pair::new(&base(), &overlay.gzip());
    let found = pair.findings(&["--only", "works"]);
    let is_found = |name: &str| {
        let path = format!("/etc/systemd/system/{name}");
        found.iter().any(|finding| finding["path"] == path.as_str())
    };
    let root = pair.path("root");
    let units = root.join("etc/systemd/system");
    fs::create_dir_all(&units).unwrap();
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::copy("/bin/true", root.join("usr/bin/demo")).unwrap();
    for (name, text) in UNITS {
        fs::write(units.join(name), text).unwrap();
    }
    for (name, _) in UNITS {
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no", "--generators=no", "--recursive-errors=no"]);
        let verified = verify.arg("--root").arg(&root).arg(name).output();
        let verified = verified.expect("tests/set-up.sh installs systemd-analyze");
        let stderr = String::from_utf8_lossy(&verified.stderr);
        assert_eq!(is_found(name), !verified.status.success(), "{name}: {stderr}\n{found:#?}");
    }
}

#[test]
fn masked_units_and_drop_ins_are_reported_at_their_file() {
    let mut overlay = Archive::new();
    let service = "[Service]\nExecStart=/usr/bin/demo\n";
    overlay.link("etc/systemd/system/gone.service", "/dev/null");
    overlay.file(
        "etc/systemd/system/needs.service",
        format!("[Unit]\nRequires=gone.service\n{service}"),
    );
    overlay.file("etc/systemd/system/demo.service.d/more.conf", service);
    let pair = Pair::new(&base(), &overlay.gzip());
    let found = pair.findings(&["--only", "works"]);
    let summary: Vec<_> = found
        .iter()
        .map(|f| [&f["lint"], &f["path"]].map(|text| text.as_str().unwrap()).join(" "))
        .collect();
    assert_eq!(
        summary,
        [
            "works/unit-refused /etc/systemd/system/demo.service.d/more.conf",
            "works/unit-needs /etc/systemd/system/needs.service",
        ],
        "{found:#?}"
    );
    assert!(found[1]["message"].as_str().unwrap().ends_with("is masked"));
}

/// Returns severity, path and message of the findings.
fn found(pair: &Pair) -> Vec<String> {
    let found = pair.findings(&["--only", "works"]);
    let line = |finding: &Value| {
        let text = |key: &str| finding[key].as_str().unwrap().to_owned();
        format!("{} {}: {}", text("severity"), text("path"), text("message"))
    };
    found.iter().map(line).collect()
}

#[test]
fn broken_base_unit_is_reported_when_an_overlay_starts_it() {
    let mut base = base();
    let dir = "usr/lib/systemd/system";
    for name in ["idle", "busy", "timed"] {
        base.file(&format!("{dir}/{name}.service"), "[Service]\nExecStart=/usr/bin/none\nodd\n");
    }
    let wants = "etc/systemd/system/multi-user.target.wants";
    base.link(&format!("{wants}/busy.service"), "/usr/lib/systemd/system/busy.service");
    let mut overlay = Archive::new();
    overlay.link(&format!("{wants}/idle.service"), "/usr/lib/systemd/system/idle.service");
    overlay.link(&format!("{wants}/busy.service"), "/usr/lib/systemd/system/busy.service");
    overlay.file(&format!("{dir}/timed.timer"), "[Timer]\nOnBootSec=1\n");
    let pair = Pair::new(&base, &overlay.gzip());
    let what = "the program in ExecStart=/usr/bin/none does not exist; the overlay starts it";
    let wanted = ["idle", "timed"].map(|name| format!("error /{dir}/{name}.service: {what}"));
    assert_eq!(found(&pair), wanted);

    // With several overlays, the one that starts the unit is responsible.
    fs::write(pair.path("more.cpio"), Archive::new().bytes()).unwrap();
    let output = pair.check(&["base.cpio", "o.cpio.gz", "more.cpio", "--only", "works", "--json"]);
    let layers: Vec<_> = super::findings(&output).iter().map(|f| f["layer"].clone()).collect();
    assert_eq!(layers, ["o.cpio.gz", "o.cpio.gz"]);
    // Units that are not started have no new fault.
    let pair = Pair::new(&base, &Archive::new().gzip());
    assert_eq!(found(&pair), [] as [String; 0]);
}

#[test]
fn users_and_groups_are_separate() {
    let mut base = base();
    base.file("etc/passwd", format!("{}alone:x:7:60::/:/bin/sh\n", super::PASSWD));
    let mut overlay = Archive::new();
    overlay.file("usr/lib/sysusers.d/o.conf", "u made -\ng crew -\nm member band\n");
    for (name, keys) in [
        ("fine", "User=alone\nGroup=shadow\nSupplementaryGroups=games crew made band"),
        ("made", "User=made\nGroup=made"),
        ("member", "User=member"),
        ("no-user", "User=shadow"),
        ("no-made-user", "User=crew"),
        ("no-group", "Group=alone"),
        ("no-more-groups", "SupplementaryGroups=games alone"),
    ] {
        let text = format!("[Service]\nExecStart=/usr/bin/demo\n{keys}\n");
        overlay.file(&format!("etc/systemd/system/{name}.service"), text);
    }
    let pair = Pair::new(&base, &overlay.gzip());
    let at = |name: &str| format!("warning /etc/systemd/system/{name}.service: ");
    let wanted = [
        at("no-group") + "unknown group in Group=alone",
        at("no-made-user") + "unknown user in User=crew",
        at("no-more-groups") + "unknown group in SupplementaryGroups=alone",
        at("no-user") + "unknown user in User=shadow",
    ];
    assert_eq!(found(&pair), wanted);
}

#[test]
fn unit_with_an_impossible_condition_is_skipped() {
    let mut overlay = Archive::new();
    let mut unit = |name: &str, condition: &str| {
        let text = format!("[Unit]\n{condition}\n[Service]\nExecStart=/opt/none\n");
        overlay.file(&format!("etc/systemd/system/{name}.service"), text);
    };
    unit("kmod", "ConditionFileNotEmpty=/opt/empty/%v/modules.devname");
    unit("no-dir", "ConditionPathExists=/opt/missing/%v/x");
    unit("no-file", "ConditionPathExists=/opt/missing");
    unit("modules", "ConditionFileNotEmpty=/lib/modules/%v/modules.devname");
    unit("device", "ConditionPathExists=/dev/ipmi0");
    unit("kernel", "ConditionPathIsDirectory=/sys");
    unit("both", "ConditionPathExists=/dev/ipmi0\nConditionPathExists=/opt/missing");
    overlay.put("opt/empty", 0o040755, "");
    let pair = Pair::new(&base(), &overlay.gzip());
    let at = |name: &str| format!("warning /etc/systemd/system/{name}.service: ");
    let what = "the program in ExecStart=/opt/none does not exist";
    let wanted = ["device", "kernel", "modules"].map(|name| at(name) + what);
    assert_eq!(found(&pair), wanted);
}

#[test]
fn ordering_cycles_are_reported() {
    let mut base = base();
    base.file("usr/lib/systemd/system/sysinit.target", "[Unit]\nDescription=a\n");
    let found = |units: &[(&str, &str)]| -> Vec<String> {
        let mut overlay = Archive::new();
        for (name, unit) in units {
            let text = format!("[Unit]\n{unit}\n[Service]\nExecStart=/usr/bin/demo\n");
            overlay.file(&format!("etc/systemd/system/{name}.service"), text);
        }
        let wants = "etc/systemd/system/multi-user.target.wants/a.service";
        overlay.link(wants, "../a.service");
        let found = Pair::new(&base, &overlay.gzip()).findings(&["--only", "works/unit-cycle"]);
        found.iter().map(|f| f["message"].as_str().unwrap().to_owned()).collect()
    };
    let cycle = |names: &str| [format!("ordering cycle: {names}")];
    let both = [("a", "After=b.service\nRequires=b.service"), ("b", "After=a.service")];
    assert_eq!(found(&both), cycle("a.service after b.service after a.service"));
    let three = [
        ("a", "After=b.service\nWants=b.service c.service"),
        ("b", "Before=c.service\n"),
        ("c", "Before=b.service"),
    ];
    assert_eq!(found(&three), cycle("b.service after c.service after b.service"));
    let early = [("a", "Before=sysinit.target")];
    assert_eq!(found(&early), cycle("a.service after sysinit.target after a.service"));
    // Sockets, timers and paths are ordered before the units that they start, and after
    // sysinit.target.
    let triggered = |kind: &str, section: &str| {
        let mut overlay = Archive::new();
        let unit = "[Unit]\nBefore=a.{kind}\n[Service]\nExecStart=/usr/bin/demo\n";
        overlay.file("etc/systemd/system/a.service", unit.replace("{kind}", kind));
        overlay.file(&format!("etc/systemd/system/a.{kind}"), format!("[{section}]\n"));
        for name in ["a.service", &format!("a.{kind}")] {
            let wants = format!("etc/systemd/system/multi-user.target.wants/{name}");
            overlay.link(&wants, &format!("../{name}"));
        }
        let found = Pair::new(&base, &overlay.gzip()).findings(&["--only", "works/unit-cycle"]);
        found.iter().map(|f| f["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (kind, section) in [("socket", "Socket"), ("timer", "Timer"), ("path", "Path")] {
        let mut units = ["a.service".to_owned(), format!("a.{kind}")];
        units.sort();
        let [first, second] = &units;
        let expected = cycle(&format!("{first} after {second} after {first}"));
        assert_eq!(triggered(kind, section), expected);
        let other = format!("{section}]\nService=b.service\nUnit=b.service\n[X-Other");
        assert_eq!(triggered(kind, &other), [] as [&str; 0], "{kind}");
    }
    // No cycle if one of them is not started, or only one of the relations exists.
    let none = [] as [&str; 0];
    assert_eq!(found(&[("a", "After=b.service"), ("b", "After=a.service")]), none);
    assert_eq!(found(&[("a", "DefaultDependencies=no\nBefore=sysinit.target")]), none);
    assert_eq!(
        found(&[("a", "After=b.service\nWants=b.service"), ("b", "Before=a.service")]),
        none
    );
}
