//! Many, slow, stalled and disconnecting clients, and shutdown.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::site::{LIMIT, Serving, Site, answer, bytes};
use crate::support::processes::within;
use crate::support::stage::{Who, finish};

/// Timeouts for the request head, for a client that does not read, and for shutdown, in ms.
fn timeouts(head: u64, stall: u64, grace: u64) -> String {
    format!("--time-outs={head},{stall},{grace}")
}

/// Whether the server has closed or reset the connection.
fn is_ended(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 4096]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn clients_that_never_finish_a_head_are_disconnected() {
    let site = Site::new();
    let serving = site.serve(&[&timeouts(300, 60_000, 0)]);
    let began = Instant::now();
    let mut silent = serving.connect();
    let mut half = serving.connect();
    half.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").unwrap();
    let mut kept = serving.connect();
    kept.write_all(b"GET /other.cpio.gz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(answer(&mut kept, false).unwrap().status, 200);
    // Sending a byte at a time does not extend the timeout.
    let mut dribbling = serving.connect();
    let mut sent = 0;
    within(LIMIT, "the slow sender is disconnected", || {
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
fn clients_that_stop_reading_are_disconnected_and_use_little_memory() {
    let site = Site::new();
    // Larger than the kernel's buffer for a connection.
    site.artifact("base.squashfs", &bytes("large", 50_000_000));
    let serving = site.serve(&[&timeouts(60_000, 1500, 0)]);
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
    within(LIMIT, "all stalled clients are disconnected", || {
        queued = queued.max(longest_queue(serving.address.port()));
        cut(&serving) == stuck.len()
    });
    // The kernel buffers little for them, too.
    assert!((1..1_000_000).contains(&queued), "{queued} bytes");
    let grown = serving.memory("VmHWM:").saturating_sub(before);
    // 128 large chunks, 272 small ones, and the other memory of the connections.
    assert!(grown < 60_000, "{grown} kB");
    assert_eq!(serving.get("/base.squashfs").body.len(), 50_000_000);
}

/// Returns the longest transmit queue, in bytes, of the connections at this local port.
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
fn slow_reader_gets_the_whole_file() {
    let site = Site::new();
    let content = bytes("large", 20_000_000);
    site.artifact("base.squashfs", &content);
    let serving = site.serve(&[&timeouts(400, 400, 0)]);
    let mut slow = serving.connect();
    slow.write_all(b"GET /base.squashfs HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut got = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = slow.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        got.extend_from_slice(&buffer[..read]);
        // The delay is the subject of the test: in total it exceeds either timeout.
        std::thread::sleep(Duration::from_millis(40));
    }
    assert!(got.ends_with(&content));
}

#[test]
fn thousand_concurrent_connections_get_correct_bytes_in_bounded_memory() {
    let site = Site::new();
    let serving = site.serve(&[]);
    let names = ["base.squashfs", "one.cpio.gz", "initrd.img", "vmlinuz", "two.tar"];
    let contents: Vec<Vec<u8>> = names.iter().map(|name| site.content(name)).collect();
    serving.get("/index.json");
    // All connections are open before the first request.
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

/// Raises this process's limit of open files to its hard limit.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

#[test]
fn clients_beyond_the_descriptor_limit_wait_for_a_connection() {
    let site = Site::new();
    let plain = site.command(&[&timeouts(300, 60_000, 0)]);
    let mut few = Command::new("prlimit");
    few.args(["--nofile=80:80", "--"]).arg(plain.get_program()).args(plain.get_args());
    few.current_dir("/");
    let serving = Serving::start(few);
    let mut idle: Vec<TcpStream> = (0..200).map(|_| serving.connect()).collect();
    // This connection waits until the idle ones have timed out.
    assert_eq!(serving.get("/other.cpio.gz").status, 200);
    assert!(idle.iter_mut().all(is_ended));
    let log = serving.log();
    assert!(!log.contains("cannot accept"), "{log}");
}

#[test]
fn signal_lets_running_responses_finish_and_exits_with_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let site = Site::new();
        let content = bytes("large", 30_000_000);
        site.artifact("base.squashfs", &content);
        let serving = site.serve(&[&timeouts(60_000, 60_000, 60_000)]);
        let mut idle = serving.connect();
        let mut running = serving.connect();
        running.write_all(b"GET /base.squashfs HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut first = [0; 1];
        running.read_exact(&mut first).unwrap();
        serving.signal(signal);
        // A refused connection shows that the shutdown has begun.
        within(LIMIT, "the server stops listening", || {
            TcpStream::connect(serving.address).is_err()
        });
        assert!(is_ended(&mut idle));
        let mut rest = Vec::new();
        running.read_to_end(&mut rest).unwrap();
        assert!(rest.ends_with(&content));
        let (code, log) = serving.end();
        assert_eq!(code, Some(0), "{log}");
    }
}

#[test]
fn stalled_responses_are_cut_off_after_the_grace_period_or_by_a_second_signal() {
    let site = Site::new();
    site.artifact("base.squashfs", &bytes("large", 50_000_000));
    for twice in [false, true] {
        let grace = if twice { 600_000 } else { 200 };
        let serving = site.serve(&[&timeouts(60_000, 600_000, grace)]);
        let mut stuck = serving.connect();
        stuck.write_all(b"GET /base.squashfs HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        stuck.read_exact(&mut [0; 1]).unwrap();
        serving.signal(Signal::SIGTERM);
        within(LIMIT, "the server stops listening", || {
            TcpStream::connect(serving.address).is_err()
        });
        if twice {
            serving.signal(Signal::SIGINT);
        }
        let (code, log) = serving.end();
        assert_eq!(code, Some(if twice { 130 } else { 0 }), "{log}");
        // A connection that only tested whether the server listens can be counted as well.
        assert!(log.contains("unfinished connection"), "{log}");
    }
}

#[test]
fn disconnecting_clients_release_connections_and_files() {
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
fn server_without_descriptors_waits_without_spinning() {
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
    within(LIMIT, "the warning is logged", || serving.log().contains("cannot accept connections"));
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        // utime and stime, in hundredths of a second.
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = used();
    // The delay is the interval over which CPU time is measured.
    std::thread::sleep(Duration::from_millis(500));
    let spent = used() - before;
    assert!(spent < 10, "{spent} of 50");
    limit("--nofile=1024:");
    assert_eq!(answer(&mut waiting, false).unwrap().status, 200);
    assert_eq!(serving.log().matches("cannot accept").count(), 1, "{}", serving.log());
}
