//! The command line.
use overcoat::root::*;
use overcoat::sandbox::*;
fn main() {
    let a: Vec<_> = std::env::args_os().collect();
    let t = std::time::Instant::now();
    let root = Root::start(RootOptions {
        layers: vec![a[1].clone().into()],
        upper_limit: 4 << 30,
        xattrs: false,
        network: Network::Host,
        binds: a
            .get(3)
            .map(|_| {
                vec![Bind { host: "/tmp/lab/repo".into(), inside: "/repo".into(), read_only: true }]
            })
            .unwrap_or_default(),
    })
    .unwrap();
    eprintln!("start {:?}", t.elapsed());
    let mut spec = CommandSpec::new(["/bin/sh", "-c", a[2].to_str().unwrap()]);
    spec.env = vec![
        ("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into()),
        ("DEBIAN_FRONTEND".into(), "noninteractive".into()),
        ("LC_ALL".into(), "C".into()),
    ];
    let t = std::time::Instant::now();
    let st = root.sandbox().unwrap().spawn(&spec).unwrap().wait().unwrap();
    eprintln!("{st} {:?}", t.elapsed());
    let t = std::time::Instant::now();
    let f = root.finish().unwrap();
    eprintln!("finish {:?}", t.elapsed());
    let t = std::time::Instant::now();
    let d = f.tree.delta().unwrap();
    eprintln!("delta {} entries {:?}", d.entries.len(), t.elapsed());
    if d.entries.len() < 40 {
        for e in &d.entries {
            eprintln!("{:?} {}", e.change, String::from_utf8_lossy(&e.path));
        }
    }
    let t = std::time::Instant::now();
    let s = overcoat::seal::seal(
        &d,
        &*f.tree,
        &overcoat::seal::SealOptions::new(overcoat::seal::Format::CpioGz),
        overcoat::seal::Output::file(std::path::Path::new("/tmp/out.cpio.gz")).unwrap(),
        None,
        &mut |_| {},
    )
    .unwrap();
    eprintln!("seal {} {:?}", s.size, t.elapsed());
}
