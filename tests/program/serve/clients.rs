//! Clients that are many, slow, stuck or gone, and the end of the server.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::site::{LIMIT, Serving, Site, answer, bytes};
use crate::support::processes::within;
use crate::support::stage::{Who, finish};

/// Time-outs for the head, for a client that does not read, and for the end, in milliseconds.
fn time_outs(head: u64, stall: u64, grace: u64) -> String {
    format!("--time-outs={head},{stall},{grace}")
}

/// That the other end has closed it, or lost it.
fn is_ended(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 4096]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn clients_that_never_finish_a_head_are_dropped() {
    let site = Site::new();
    let serving = site.serve(&[&time_outs(300, 60_000, 0)]);
    let began = Instant::now();
    let mut silent = serving.connect();
    let mut half = serving.connect();
    half.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").unwrap();
    let mut kept = serving.connect();
    kept.write_all(b"GET /other.cpio.gz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(answer(&mut kept, false).unwrap().status, 200);
    // One that goes on sending a little does not gain time by it.
    let mut dribbling = serving.connect();
    let mut sent = 0;
    within(LIMIT, "who dribbles is dropped", || {
        sent += 1;
        dribbling.write_all(b"G").is_err()
    });
    assert!(sent > 1);
    for stream in [&mut silent, &mut half, &mut kept] {
        assert!(is_ended(stream));
    }
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(serving.get("/other.cpio.gz").status, 200);
}

#[test]
fn clients_that_stop_reading_are_dropped_and_cost_little_meanwhile() {
    let site = Site::new();
    // More than the kernel keeps for a connection.
    site.artifact("base.squashfs", &bytes("large", 50_000_000));
    let serving = site.serve(&[&time_outs(60_000, 1500, 0)]);
    serving.get("/index.json");
    let before = serving.memory("VmRSS:");
    let stuck: Vec<TcpStream> = (0..400)
        .map(|_| {
            let mut stream = serving.connect();
            stream.write_all(b"GET /base.squashfs HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            stream
        })
        .collect();
    let cut = |serving: &Serving| {
        let log = serving.log();
        log.lines().filter(|l| l.contains("GET /base.squashfs") && l.contains("cut off")).count()
    };
    let mut queued = 0;
    within(LIMIT, "all who do not read are dropped", || {
        queued = queued.max(longest_queue(serving.address.port()));
        cut(&serving) == stuck.len()
    });
    // Nor does the kernel keep much for them.
    assert!((1..1_000_000).contains(&queued), "{queued} bytes");
    let grown = serving.memory("VmHWM:").saturating_sub(before);
    // 128 large pieces and 272 small ones, and what a connection needs besides.
    assert!(grown < 60_000, "{grown} kB");
    assert_eq!(serving.get("/base.squashfs").body.len(), 50_000_000);
}

/// The most bytes that the kernel holds for one of the connections at this local port.
fn longest_queue(port: u16) -> u64 {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let queue = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().filter(|address| address.ends_with(&local))?;
        u64::from_str_radix(fields.nth(2)?.split(':').next()?, 16).ok()
    };
    sockets.lines().filter_map(queue).max().unwrap_or(0)
}

#[test]
fn a_client_that_reads_slowly_gets_all_of_it() {
    let site = Site::new();
    let content = bytes("large", 20_000_000);
    site.artifact("base.squashfs", &content);
    let serving = site.serve(&[&time_outs(400, 400, 0)]);
    let mut slow = serving.connect();
    slow.write_all(b"GET /base.squashfs HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut got = Vec::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        let read = slow.read(&mut piece).unwrap();
        if read == 0 {
            break;
        }
        got.extend_from_slice(&piece[..read]);
        // The time that it takes is what is tested; it is longer in all than either time-out.
        std::thread::sleep(Duration::from_millis(40));
    }
    assert!(got.ends_with(&content));
}

#[test]
fn a_thousand_connections_at_once_get_the_right_bytes_and_memory_stays_flat() {
    let site = Site::new();
    let serving = site.serve(&[]);
    let names = ["base.squashfs", "one.cpio.gz", "initrd.img", "vmlinuz", "two.tar"];
    let contents: Vec<Vec<u8>> = names.iter().map(|name| site.content(name)).collect();
    serving.get("/index.json");
    // All are connected before the first asks.
    raise_descriptors();
    let streams: Vec<TcpStream> = (0..1000).map(|_| serving.connect()).collect();
    let mut workers = Vec::new();
    let streams = std::sync::Arc::new(streams);
    let contents = std::sync::Arc::new(contents);
    for worker in 0..20 {
        let (streams, contents) = (streams.clone(), contents.clone());
        workers.push(std::thread::spawn(move || {
            let own = || streams.iter().enumerate().skip(worker).step_by(20);
            for round in 0..3 {
                for (number, stream) in own() {
                    let name = names[(number + round) % names.len()];
                    let from = number % 1000;
                    let request =
                        format!("GET /{name} HTTP/1.1\r\nHost: a\r\nRange: bytes={from}-\r\n\r\n");
                    (&*stream).write_all(request.as_bytes()).unwrap();
                }
                for (number, stream) in own() {
                    let mut stream = stream.try_clone().unwrap();
                    let answer = answer(&mut stream, false).unwrap();
                    assert_eq!(answer.status, 206);
                    let which = (number + round) % names.len();
                    assert!(answer.body == contents[which][number % 1000..], "{}", names[which]);
                }
            }
        }));
    }
    for worker in workers {
        worker.join().unwrap();
    }
    let most = serving.memory("VmHWM:");
    assert!(most < 150_000, "{most} kB");
}

/// Lets this process open as many files as it may.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

#[test]
fn more_clients_than_there_are_descriptors_for_are_served_in_turn() {
    let site = Site::new();
    let plain = site.command(&[&time_outs(300, 60_000, 0)]);
    let mut few = Command::new("prlimit");
    few.args(["--nofile=80:80", "--"]).arg(plain.get_program()).args(plain.get_args());
    few.current_dir("/");
    let serving = Serving::start(few);
    let mut idle: Vec<TcpStream> = (0..200).map(|_| serving.connect()).collect();
    // Who waits longer than the others' time-out comes to it.
    assert_eq!(serving.get("/other.cpio.gz").status, 200);
    assert!(idle.iter_mut().all(is_ended));
    let log = serving.log();
    assert!(!log.contains("cannot accept"), "{log}");
}

#[test]
fn when_it_is_asked_to_end_it_sends_what_it_has_begun_and_ends_with_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let site = Site::new();
        let content = bytes("large", 30_000_000);
        site.artifact("base.squashfs", &content);
        let serving = site.serve(&[&time_outs(60_000, 60_000, 60_000)]);
        let mut idle = serving.connect();
        let mut running = serving.connect();
        running.write_all(b"GET /base.squashfs HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut first = [0; 1];
        running.read_exact(&mut first).unwrap();
        serving.signal(signal);
        // That it hears no more tells that it has begun to end.
        within(LIMIT, "nobody listens", || TcpStream::connect(serving.address).is_err());
        assert!(is_ended(&mut idle));
        let mut rest = Vec::new();
        running.read_to_end(&mut rest).unwrap();
        assert!(rest.ends_with(&content));
        let (code, log) = serving.end();
        assert_eq!(code, Some(0), "{log}");
    }
}

#[test]
fn what_does_not_end_in_time_is_cut_off_and_a_second_signal_waits_for_nothing() {
    let site = Site::new();
    site.artifact("base.squashfs", &bytes("large", 50_000_000));
    for twice in [false, true] {
        let grace = if twice { 600_000 } else { 200 };
        let serving = site.serve(&[&time_outs(60_000, 600_000, grace)]);
        let mut stuck = serving.connect();
        stuck.write_all(b"GET /base.squashfs HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        stuck.read_exact(&mut [0; 1]).unwrap();
        serving.signal(Signal::SIGTERM);
        within(LIMIT, "nobody listens", || TcpStream::connect(serving.address).is_err());
        if twice {
            serving.signal(Signal::SIGINT);
        }
        let (code, log) = serving.end();
        assert_eq!(code, Some(if twice { 130 } else { 0 }), "{log}");
        // The connection by which it was tried whether somebody listens can be another one.
        assert!(log.contains("unfinished connection"), "{log}");
    }
}

#[test]
fn a_client_that_goes_away_is_no_matter() {
    let site = Site::new();
    site.artifact("base.squashfs", &bytes("large", 50_000_000));
    let serving = site.serve(&[]);
    for _ in 0..50 {
        let mut stream = serving.connect();
        stream.write_all(b"GET /base.squashfs HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
        drop(stream);
        let mut stream = serving.connect();
        stream.write_all(b"GET /base.squashfs HTTP/1.1\r\nHos").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    assert_eq!(serving.get("/other.cpio.gz").status, 200);
    let pid = serving.child.id();
    within(LIMIT, "their connections and files are closed", || {
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() < 20
    });
}

#[test]
fn without_descriptors_it_waits_for_some_and_does_not_spin() {
    let site = Site::new();
    let serving = site.serve(&[]);
    assert_eq!(serving.get("/other.cpio.gz").status, 200);
    let pid = serving.child.id();
    let limit = |files: &str| {
        let pid = pid.to_string();
        let mut command = site.stage.command(Who::Unprivileged, "prlimit");
        finish(command.args(["--pid", &pid, files])).ok();
    };
    limit("--nofile=4:");
    let mut waiting = serving.connect();
    waiting.write_all(b"GET /other.cpio.gz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    within(LIMIT, "it is told", || serving.log().contains("cannot accept connections"));
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        // utime and stime, in hundredths of a second.
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = used();
    // The time is what is measured: what it uses meanwhile.
    std::thread::sleep(Duration::from_millis(500));
    let spent = used() - before;
    assert!(spent < 10, "{spent} of 50");
    limit("--nofile=1024:");
    assert_eq!(answer(&mut waiting, false).unwrap().status, 200);
    assert_eq!(serving.log().matches("cannot accept").count(), 1, "{}", serving.log());
}
