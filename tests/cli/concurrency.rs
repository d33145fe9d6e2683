//! Many processes in the same folders of a mount, sealed meanwhile and in the end. What they do is
//! in `concurrency.py`; `CONCURRENCY_STEPS` is how many steps each of them does.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::mount::{mount, nothing_is_left, place, umount};
use crate::support::processes::within;
use crate::support::stage::{EVERYBODY, Finished, Stage, Who, finish};

const SCRIPT: &str = include_str!("concurrency.py");
/// The system's own, which everybody can run.
const PYTHON: &str = "/usr/bin/python3";
const WORKERS: usize = 8;
/// The steps of each, all of them together take some seconds.
const STEPS: &str = "1500";
/// Without an answer for this long, there will be none.
const STUCK: Duration = Duration::from_secs(120);

fn python(stage: &Stage, who: Who, task: &str, words: &[&str]) -> Command {
    let mut command = stage.command(who, PYTHON);
    command.arg(stage.path("concurrency.py")).arg(task).args(words);
    command
}

/// Ends what runs, if it does: a worker that hangs must not outlive the test.
struct Workers(Vec<Child>);

impl Drop for Workers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
        }
    }
}

impl Workers {
    fn at_work(&mut self) -> bool {
        self.0.iter_mut().any(|child| child.try_wait().unwrap().is_none())
    }
}

fn seal(stage: &Stage, who: Who, output: &str) -> Finished {
    finish(stage.overcoat(who).args(["seal", "mnt", "--no-manifest", "-o", output])).ok()
}

/// Runs `check` on what the kernel makes of the base and an archive unpacked over it.
fn unpacked(stage: &Stage, who: Who, archive: &str, task: &str, words: &[&str]) -> Finished {
    let archive = stage.out(who).join(archive);
    stage.sh(&format!(
        "mkdir -p lower upper root-of-it; mount -t squashfs -o loop,ro base.squashfs lower
         cd upper; cpio --quiet -idm < {}; cd ..
         mount -t overlay -o lowerdir=upper:lower overlay root-of-it",
        archive.display()
    ));
    let root = stage.path("root-of-it");
    let mut command = python(stage, Who::Root, task, &[root.to_str().unwrap()]);
    let finished = finish(command.args(words).current_dir(stage.out(who)));
    stage.sh("umount root-of-it lower; rm -r upper");
    finished.ok()
}

fn eight_processes_in_the_same_folders(who: Who) {
    let stage = Stage::new();
    stage.write("concurrency.py", SCRIPT);
    let base = stage.path("base.squashfs");
    let lower = stage.path("lay");
    std::fs::create_dir(&lower).unwrap();
    stage.give(&lower, who);
    finish(&mut python(&stage, who, "lay", &[lower.to_str().unwrap()])).ok();
    stage.sh("mksquashfs lay base.squashfs -quiet -no-progress; rm -r lay");
    let dir = place(&stage, who);
    let mounts = Stage::mounts();
    mount(&stage, who, &["--rw"], &[&base], &dir).ok();
    finish(&mut python(&stage, who, "lay", &["mnt", "made"])).ok();
    finish(&mut python(&stage, who, "check", &["mnt"])).ok();

    let steps = std::env::var("CONCURRENCY_STEPS").unwrap_or_else(|_| STEPS.into());
    let worker = |n: usize| python(&stage, who, "work", &["mnt", &n.to_string(), &steps]);
    let began = Instant::now();
    let mut workers = Workers((0..WORKERS).map(|n| worker(n).spawn().unwrap()).collect());
    // What is sealed in the middle of it is a root that was there at one moment.
    let mut sealed = 0;
    while sealed < 2 || workers.at_work() && sealed < 20 {
        seal(&stage, who, "middle.cpio");
        unpacked(&stage, who, "middle.cpio", "check", &[]);
        sealed += 1;
    }
    within(STUCK.max(began.elapsed() * 10), "all have ended", || !workers.at_work());
    for child in &mut workers.0 {
        assert!(child.wait().unwrap().success(), "a worker failed");
    }
    println!("{who:?}: {:?}, sealed {sealed} times", began.elapsed());

    let count = WORKERS.to_string();
    finish(&mut python(&stage, who, "check", &["mnt", &count])).ok();
    let shown = finish(&mut python(&stage, who, "show", &["mnt"])).ok().text();
    seal(&stage, who, "end.cpio");
    unpacked(&stage, who, "end.cpio", "check", &[&count]);
    let unpacked = unpacked(&stage, who, "end.cpio", "show", &[]).text();
    assert!(shown == unpacked, "what is unpacked differs:\n{}", difference(&shown, &unpacked));
    // What is sealed once more has not changed by being looked at.
    let archive = |name: &str| std::fs::read(stage.out(who).join(name)).unwrap();
    seal(&stage, who, "again.cpio");
    assert!(archive("again.cpio") == archive("end.cpio"), "sealed twice");
    umount(&stage, who, &dir).ok();
    nothing_is_left(&dir, &mounts);
}

fn difference(a: &str, b: &str) -> String {
    let only = |a: &str, b: &str, sign: char| -> String {
        let lines = a.lines().filter(|line| !b.lines().any(|other| other == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect()
    };
    only(a, b, '-') + &only(b, a, '+')
}

#[test]
fn eight_processes_work_in_the_same_folders_while_they_are_sealed() {
    for who in EVERYBODY {
        eight_processes_in_the_same_folders(who);
    }
}
