//! Measures single operations through a mount, beside other file systems.
//!
//! `cargo bench --bench way -- ROUNDS NAME=DIR...` runs in each directory in turn, ROUNDS times,
//! and prints the median of each operation in microseconds, and the ratio of the first directory to
//! each other one. `--count DIR` prints the FUSE requests of each operation in a directory instead
//! (as root, with tracefs). `benches/way.sh` sets up the mounts.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, AtFlags, CWD, Timespec, Timestamps, fadvise, utimensat};

const TRACING: &str = "/sys/kernel/tracing";
/// Bytes of a small file.
const SMALL: usize = 4096;
/// Bytes of a large file.
const LARGE: usize = 64 << 20;
const MIB: usize = 1 << 20;

/// Runs an operation `count` times in a directory, which is also the working directory, so that
/// looking up its path takes no time. Returns how often it ran.
type Operation = fn(&Path, u32) -> u32;

fn small(dir: &Path, n: u32) -> PathBuf {
    dir.join(format!("small-{n}"))
}

fn each(count: u32, mut one: impl FnMut(u32)) -> u32 {
    (0..count).for_each(&mut one);
    count
}

fn random_offset(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    (*seed >> 33) % ((LARGE / SMALL) as u64) * SMALL as u64
}

fn read_all(dir: &Path) -> u32 {
    let mut file = File::open(dir.join("large")).unwrap();
    let mut buffer = vec![0; MIB];
    let mut parts = 0;
    while file.read(&mut buffer).unwrap() > 0 {
        parts += 1;
    }
    parts
}

fn stat_all(dir: &Path, count: u32) -> u32 {
    each(count, |n| {
        fs::symlink_metadata(small(dir, n)).unwrap();
    })
}

fn forget_pages(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    fadvise(file.as_fd(), 0, None, Advice::DontNeed).unwrap();
}

/// The operations, in order: later ones use the files of earlier ones.
const OPERATIONS: &[(&str, u32, Operation)] = &[
    ("create, write 4 KiB, close", 4000, |dir, count| {
        each(count, |n| File::create(small(dir, n)).unwrap().write_all(&[7; SMALL]).unwrap())
    }),
    ("stat, first after writing", 4000, stat_all),
    ("stat, again", 4000, stat_all),
    ("stat of a name that is not there, first", 4000, |dir, count| {
        each(count, |n| drop(fs::symlink_metadata(dir.join(format!("no-{n}"))).unwrap_err()))
    }),
    ("stat of a name that is not there, again", 4000, |dir, count| {
        each(count, |n| drop(fs::symlink_metadata(dir.join(format!("no-{n}"))).unwrap_err()))
    }),
    ("open, read 4 KiB, close, cached", 4000, |dir, count| {
        let mut buffer = [0; SMALL];
        fs::read(small(dir, 0)).unwrap();
        each(count, |_| File::open(small(dir, 0)).unwrap().read_exact(&mut buffer).unwrap())
    }),
    ("open, read 4 KiB, close, first", 4000, |dir, count| {
        let mut buffer = [0; SMALL];
        each(count, |n| File::open(small(dir, n)).unwrap().read_exact(&mut buffer).unwrap())
    }),
    ("chmod", 4000, |dir, count| {
        let mode = fs::Permissions::from_mode(0o600);
        each(count, |n| fs::set_permissions(small(dir, n), mode.clone()).unwrap())
    }),
    ("utimens", 4000, |dir, count| {
        let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        each(count, |n| utimensat(CWD, small(dir, n), &times, AtFlags::empty()).unwrap())
    }),
    ("list 4,000 names", 4, |dir, count| {
        each(count, |_| assert!(fs::read_dir(dir.join(".")).unwrap().count() >= 4000))
    }),
    ("list and stat 4,000 names", 4, |dir, count| {
        each(count, |_| {
            for entry in fs::read_dir(dir.join(".")).unwrap() {
                entry.unwrap().metadata().unwrap();
            }
        })
    }),
    ("link", 4000, |dir, count| {
        each(count, |n| fs::hard_link(small(dir, n), dir.join(format!("link-{n}"))).unwrap())
    }),
    ("rename", 4000, |dir, count| {
        each(count, |n| {
            let to = dir.join(format!("renamed-{n}"));
            fs::rename(dir.join(format!("link-{n}")), to).unwrap();
        })
    }),
    ("rename over another name", 2000, |dir, count| {
        each(count, |n| {
            let to = dir.join(format!("renamed-{}", n + 2000));
            fs::rename(dir.join(format!("renamed-{n}")), to).unwrap();
        })
    }),
    ("unlink", 4000, |dir, count| each(count, |n| fs::remove_file(small(dir, n)).unwrap())),
    ("symlink", 4000, |dir, count| {
        each(count, |n| symlink("target", dir.join(format!("symlink-{n}"))).unwrap())
    }),
    ("mkdir", 4000, |dir, count| {
        each(count, |n| fs::create_dir(dir.join(format!("dir-{n}"))).unwrap())
    }),
    ("rmdir", 4000, |dir, count| {
        each(count, |n| fs::remove_dir(dir.join(format!("dir-{n}"))).unwrap())
    }),
    ("write 1 MiB in a row", 64, |dir, count| {
        let mut file = File::create(dir.join("large")).unwrap();
        each(count, |_| file.write_all(&vec![7; MIB]).unwrap())
    }),
    ("write 1 MiB over it", 64, |dir, count| {
        let mut file = OpenOptions::new().write(true).open(dir.join("large")).unwrap();
        each(count, |_| file.write_all(&vec![8; MIB]).unwrap())
    }),
    ("read 1 MiB in a row, cached", 64, |dir, _| read_all(dir)),
    ("read 1 MiB in a row, first", 64, |dir, _| {
        forget_pages(&dir.join("large"));
        read_all(dir)
    }),
    ("read 4 KiB anywhere, first", 4000, |dir, count| {
        forget_pages(&dir.join("large"));
        let file = File::open(dir.join("large")).unwrap();
        fadvise(file.as_fd(), 0, None, Advice::Random).unwrap();
        let (mut seed, mut buffer) = (1, [0; SMALL]);
        each(count, |_| file.read_exact_at(&mut buffer, random_offset(&mut seed)).unwrap())
    }),
    ("write 4 KiB anywhere", 4000, |dir, count| {
        let file = OpenOptions::new().write(true).open(dir.join("large")).unwrap();
        let mut seed = 2;
        each(count, |_| file.write_all_at(&[9; SMALL], random_offset(&mut seed)).unwrap())
    }),
    ("append 100 bytes", 4000, |dir, count| {
        let mut file = OpenOptions::new().append(true).open(dir.join("large")).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        each(count, |_| file.write_all(&[1; 100]).unwrap())
    }),
    ("untar 20,000 files", 1, |dir, count| {
        let tar = std::env::var_os("WAY_TAR").expect("WAY_TAR: a tar archive");
        each(count, |_| {
            let mut command = Command::new("tar");
            command.arg("-xf").arg(&tar).arg("-C").arg(dir.join("."));
            assert!(command.status().unwrap().success());
        })
    }),
];

fn fresh(dir: &Path) -> PathBuf {
    let dir = dir.join("way");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    dir
}

fn measure(rounds: usize, places: &[(String, PathBuf)]) {
    let mut times = vec![vec![Vec::new(); places.len()]; OPERATIONS.len()];
    for _ in 0..rounds {
        for (place, (_, dir)) in places.iter().enumerate() {
            let fresh = fresh(dir);
            std::env::set_current_dir(&fresh).unwrap();
            let dir = Path::new("");
            for ((_, count, operation), times) in OPERATIONS.iter().zip(&mut times) {
                let begun = Instant::now();
                let done = operation(dir, *count);
                times[place].push(begun.elapsed() / done);
            }
            std::env::set_current_dir("/").unwrap();
            fs::remove_dir_all(fresh).unwrap();
        }
    }
    let names: Vec<_> = places.iter().map(|(name, _)| name.as_str()).collect();
    let of: Vec<_> = names[1..].iter().map(|name| format!("/ {name}")).collect();
    println!("| operation | {}, µs | {} |", names.join(", µs | "), of.join(" | "));
    println!("|---|{}", "---|".repeat(names.len() * 2 - 1));
    for ((name, ..), times) in OPERATIONS.iter().zip(&mut times) {
        let medians: Vec<_> = times.iter_mut().map(|times| median(times)).collect();
        let all: Vec<_> = medians.iter().map(|time| format!("{time:.1}")).collect();
        let ratios: Vec<_> =
            medians[1..].iter().map(|m| format!("{:.2}", medians[0] / m)).collect();
        println!("| {name} | {} | {} |", all.join(" | "), ratios.join(" | "));
    }
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_nanos() as f64 / 1000.0
}

/// Prints the FUSE requests of each operation, according to the kernel's trace events.
fn count(dir: &Path) {
    let tracing = |file: &str, text: &str| fs::write(Path::new(TRACING).join(file), text).unwrap();
    let dir = fresh(dir);
    let device = rustix::fs::minor(fs::metadata(&dir).unwrap().dev());
    let connection = format!("connection {device} ");
    tracing("buffer_size_kb", "65536");
    println!("| operation | requests |\n|---|---|");
    for (name, count, operation) in OPERATIONS {
        tracing("trace", "");
        tracing("events/fuse/fuse_request_send/enable", "1");
        let done = operation(&dir, *count);
        tracing("events/fuse/fuse_request_send/enable", "0");
        let trace = fs::read_to_string(Path::new(TRACING).join("trace")).unwrap();
        let mut requests = BTreeMap::<&str, u32>::new();
        let ours = trace.lines().filter(|line| line.contains(&connection));
        for opcode in ours.filter_map(|line| line.split("(FUSE_").nth(1)) {
            *requests.entry(opcode.split(')').next().unwrap_or_default()).or_default() += 1;
        }
        let each: Vec<_> = requests
            .iter()
            .map(|(opcode, times)| (opcode, f64::from(*times) / f64::from(done)))
            .filter(|(_, times)| *times >= 0.005)
            .map(|(opcode, times)| format!("{times:.2} {opcode}"))
            .collect();
        println!("| {name} | {} |", if each.is_empty() { "none".into() } else { each.join(", ") });
    }
    tracing("buffer_size_kb", "64");
    fs::remove_dir_all(dir).unwrap();
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match &arguments[..] {
        [flag, dir] if flag == "--count" => count(Path::new(dir)),
        [rounds, places @ ..] if !places.is_empty() => {
            let rounds = rounds.parse().expect("a number of rounds");
            let place = |text: &String| {
                let (name, dir) = text.split_once('=').expect("NAME=DIR");
                (name.to_owned(), PathBuf::from(dir))
            };
            measure(rounds, &places.iter().map(place).collect::<Vec<_>>());
        }
        _ => eprintln!("way: ROUNDS NAME=DIR..., or --count DIR"),
    }
}
