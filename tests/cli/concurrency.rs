//! Many processes in the same folders of a mount, which is sealed meanwhile and at the end. They
//! run `concurrency.py`; `CONCURRENCY_STEPS` sets the number of steps of each.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::mount_fixture::MountPoint;
use crate::support::processes::within;
use crate::support::stage::{BOTH_USERS, Finished, Stage, Who, finish};

const SCRIPT: &str = include_str!("concurrency.py");
/// The interpreter of the system, which every user can execute.
const PYTHON: &str = "/usr/bin/python3";
const WORKERS: usize = 8;
/// The default number of steps of each worker; a run takes some seconds.
const STEPS: &str = "1500";
/// Minimum time after which workers that still run count as stuck.
const STUCK: Duration = Duration::from_secs(120);

fn python(stage: &Stage, who: Who, task: &str, words: &[&str]) -> Command {
    let mut command = stage.command(who, PYTHON);
    command.arg(stage.path("concurrency.py")).arg(task).args(words);
    command
}

/// Worker processes, which are killed on drop so that a stuck one does not outlive the test.
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

/// Runs `task` on a mount by the kernel of the base and the unpacked archive.
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
    let lower = stage.path("lower-files");
    std::fs::create_dir(&lower).unwrap();
    stage.give(&lower, who);
    finish(&mut python(&stage, who, "init", &[lower.to_str().unwrap()])).ok();
    stage.sh("mksquashfs lower-files base.squashfs -quiet -no-progress; rm -r lower-files");
    let mnt = MountPoint::new(&stage, who);
    mnt.mount(&["--rw"], &[&base]).ok();
    finish(&mut python(&stage, who, "init", &["mnt", "made"])).ok();
    finish(&mut python(&stage, who, "check", &["mnt"])).ok();

    let steps = std::env::var("CONCURRENCY_STEPS").unwrap_or_else(|_| STEPS.into());
    let worker = |n: usize| python(&stage, who, "work", &["mnt", &n.to_string(), &steps]);
    let seal = |output: &str| mnt.seal(&["--no-manifest", "-o", output]).ok();
    let began = Instant::now();
    let mut workers = Workers((0..WORKERS).map(|n| worker(n).spawn().unwrap()).collect());
    // An archive that is sealed meanwhile is the state of the root at one moment.
    let mut sealed = 0;
    while sealed < 2 || workers.at_work() && sealed < 20 {
        seal("middle.cpio");
        unpacked(&stage, who, "middle.cpio", "check", &[]);
        sealed += 1;
    }
    within(STUCK.max(began.elapsed() * 10), "all workers have ended", || !workers.at_work());
    for child in &mut workers.0 {
        assert!(child.wait().unwrap().success(), "a worker failed");
    }
    println!("{who:?}: {:?}, sealed {sealed} times", began.elapsed());

    let count = WORKERS.to_string();
    finish(&mut python(&stage, who, "check", &["mnt", &count])).ok();
    let shown = finish(&mut python(&stage, who, "show", &["mnt"])).ok().text();
    seal("end.cpio");
    unpacked(&stage, who, "end.cpio", "check", &[&count]);
    let unpacked = unpacked(&stage, who, "end.cpio", "show", &[]).text();
    assert!(shown == unpacked, "the unpacked tree differs:\n{}", difference(&shown, &unpacked));
    // Reading the mount does not change the sealed bytes.
    let archive = |name: &str| std::fs::read(stage.out(who).join(name)).unwrap();
    seal("again.cpio");
    assert!(archive("again.cpio") == archive("end.cpio"), "sealed twice");
    mnt.end();
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
    for who in BOTH_USERS {
        eight_processes_in_the_same_folders(who);
    }
}
