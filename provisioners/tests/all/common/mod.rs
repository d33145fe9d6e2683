//! A [`Machine`] for a directory of the host, in which commands run, and roots for it.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test uses a part of it, and nothing outside of the tests"
)]

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use provisioners::machine::{
    Attributes, Command, Entry, Exit, Kind, Log, Machine, MachineError, Meta, Node, Stat, Time,
};

/// A root in a directory of the host. Without root rights, owners are only recorded.
#[derive(Debug)]
pub struct Directory {
    pub root: PathBuf,
    owners: HashMap<PathBuf, (u32, u32)>,
    privileged: bool,
}

impl Directory {
    pub fn new(root: &Path) -> Self {
        let privileged = fs::metadata("/proc/self").unwrap().uid() == 0;
        Self { root: root.to_owned(), owners: HashMap::new(), privileged }
    }

    /// Returns the path on the host for a path inside. Follows links in its parents, and with
    /// `last` also in its last component.
    fn host(&self, path: &Path, last: bool) -> io::Result<PathBuf> {
        let mut todo: Vec<Vec<u8>> = parts(path);
        let mut inside = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                inside.pop();
                continue;
            }
            let next = inside.join(OsStr::from_bytes(&part));
            match fs::read_link(self.plain(&next)) {
                Ok(target) if last || !todo.is_empty() => {
                    links += 1;
                    if links > 40 {
                        return Err(io::Error::from_raw_os_error(40));
                    }
                    if target.is_absolute() {
                        inside = PathBuf::from("/");
                    }
                    todo.extend(parts(&target));
                }
                _ => inside = next,
            }
        }
        Ok(self.plain(&inside))
    }

    fn plain(&self, inside: &Path) -> PathBuf {
        self.root.join(inside.strip_prefix("/").unwrap())
    }

    fn chown(&mut self, host: &Path, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        if self.privileged {
            return std::os::unix::fs::lchown(host, uid, gid);
        }
        let owner = self.owners.entry(host.to_owned()).or_insert((0, 0));
        *owner = (uid.unwrap_or(owner.0), gid.unwrap_or(owner.1));
        Ok(())
    }

    fn put_at(&mut self, host: &Path, node: Node<'_>, meta: &Meta) -> io::Result<()> {
        match node {
            Node::Directory => {
                fs::create_dir(host)?;
                self.chown(host, Some(meta.uid), Some(meta.gid))?;
                fs::set_permissions(host, mode(meta.mode.unwrap_or(0o755)))?;
            }
            Node::Symlink(target) => {
                symlink(target, host)?;
                self.chown(host, Some(meta.uid), Some(meta.gid))?;
            }
            Node::File(content) => {
                let mut file = fs::File::create_new(host)?;
                io::copy(content, &mut file)?;
                self.chown(host, Some(meta.uid), Some(meta.gid))?;
                file.set_permissions(mode(meta.mode.unwrap_or(0o644)))?;
                if let Some(time) = meta.mtime {
                    let seconds = Duration::from_secs(u64::try_from(time.seconds).unwrap());
                    let nanoseconds = Duration::from_nanos(time.nanoseconds.into());
                    file.set_modified(SystemTime::UNIX_EPOCH + seconds + nanoseconds)?;
                }
            }
        }
        Ok(())
    }
}

fn parts(path: &Path) -> Vec<Vec<u8>> {
    path.components()
        .rev()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.as_bytes().to_vec()),
            Component::ParentDir => Some(b"..".to_vec()),
            _ => None,
        })
        .collect()
}

fn mode(bits: u32) -> fs::Permissions {
    fs::Permissions::from_mode(bits)
}

fn kind(file_type: fs::FileType) -> Kind {
    if file_type.is_dir() {
        Kind::Directory
    } else if file_type.is_file() {
        Kind::File
    } else if file_type.is_symlink() {
        Kind::Symlink
    } else {
        Kind::Other
    }
}

fn missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

impl Machine for Directory {
    fn run(&mut self, command: &Command, log: &mut dyn Log) -> Result<Exit, MachineError> {
        let program = command.argv[0].clone();
        let fail = |source| MachineError::Run { program: program.clone(), source };
        let script = "for d in dev proc; do [ ! -d \"$0/$d\" ] || mount --rbind /$d \"$0/$d\"; done
            exec chroot \"$0\" \"$@\"";
        let mut unshare = std::process::Command::new("unshare");
        unshare.args(if self.privileged { &["-m"][..] } else { &["-r", "-m"] });
        let mut child = unshare
            .args(["sh", "-ec", script])
            .arg(&self.root)
            .args(&command.argv)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .envs(command.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(fail)?;
        child.stdin.take().unwrap().write_all(&command.stdin).map_err(fail)?;
        let output = child.wait_with_output().map_err(fail)?;
        log.output(&output.stdout);
        log.output(&output.stderr);
        Ok(match output.status.code() {
            Some(code) => Exit::Code(code),
            None => Exit::Signal(output.status.signal().unwrap()),
        })
    }

    fn scratch(
        &mut self,
        name: &Path,
        content: &mut dyn Read,
        mode: u32,
    ) -> Result<PathBuf, MachineError> {
        let path = Path::new("/run/overcoat").join(name);
        let meta = Meta { mode: Some(mode), ..Meta::default() };
        self.put(&path, Node::File(content), &meta)?;
        Ok(path)
    }

    fn stat(&self, path: &Path) -> Result<Option<Stat>, MachineError> {
        let fail = |e| MachineError::path("stat", path, e);
        let host = self.host(path, false).map_err(fail)?;
        let Some(meta) = missing(fs::symlink_metadata(&host)).map_err(fail)? else {
            return Ok(None);
        };
        let owner = self.owners.get(&host).copied();
        let (uid, gid) =
            owner.unwrap_or(if self.privileged { (meta.uid(), meta.gid()) } else { (0, 0) });
        Ok(Some(Stat {
            kind: kind(meta.file_type()),
            mode: meta.mode() & 0o7777,
            uid,
            gid,
            size: meta.len(),
            mtime: Time {
                seconds: meta.mtime(),
                nanoseconds: u32::try_from(meta.mtime_nsec()).unwrap(),
            },
        }))
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, MachineError> {
        let fail = |e| MachineError::path("read", path, e);
        missing(fs::read(self.host(path, true).map_err(fail)?)).map_err(fail)
    }

    fn list(&self, dir: &Path) -> Result<Vec<Entry>, MachineError> {
        let fail = |e| MachineError::path("list", dir, e);
        let entries = missing(fs::read_dir(self.host(dir, true).map_err(fail)?)).map_err(fail)?;
        let entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok(Entry { name: entry.file_name(), kind: kind(entry.file_type()?) })
        };
        entries.into_iter().flatten().map(entry).collect::<io::Result<_>>().map_err(fail)
    }

    fn put(&mut self, path: &Path, node: Node<'_>, meta: &Meta) -> Result<(), MachineError> {
        let fail = |e| MachineError::path("write", path, e);
        if let Some(parent) = path.parent()
            && !self.host(parent, true).map_err(fail)?.is_dir()
        {
            self.put(parent, Node::Directory, &Meta::default())?;
        }
        let host = self.host(path, false).map_err(fail)?;
        if matches!(node, Node::Directory) && self.host(path, true).map_err(fail)?.is_dir() {
            return Ok(());
        }
        match fs::symlink_metadata(&host) {
            Ok(meta) if meta.is_dir() => {
                return Err(fail(io::Error::from_raw_os_error(21)));
            }
            Ok(_) if matches!(node, Node::Directory) => {
                return Err(fail(io::Error::from_raw_os_error(20)));
            }
            Ok(_) => fs::remove_file(&host).map_err(fail)?,
            Err(_) => {}
        }
        self.put_at(&host, node, meta).map_err(fail)
    }

    fn set_attributes(&mut self, path: &Path, to: &Attributes) -> Result<(), MachineError> {
        let fail = |e| MachineError::path("change", path, e);
        let host = self.host(path, false).map_err(fail)?;
        let now = fs::symlink_metadata(&host).map_err(fail)?;
        self.chown(&host, to.uid, to.gid).map_err(fail)?;
        if !now.is_symlink() {
            let bits = to.mode.unwrap_or(now.mode() & 0o7777);
            fs::set_permissions(&host, mode(bits)).map_err(fail)?;
        }
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> Result<(), MachineError> {
        let fail = |e| MachineError::path("remove", path, e);
        let host = self.host(path, false).map_err(fail)?;
        match missing(fs::symlink_metadata(&host)).map_err(fail)? {
            None => Ok(()),
            Some(meta) if meta.is_dir() => fs::remove_dir_all(&host).map_err(fail),
            Some(_) => fs::remove_file(&host).map_err(fail),
        }
    }
}

/// Creates a small root with a shell. As on Debian, `/bin` and `/lib` are links into `/usr`.
pub fn root_with_shell() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for path in ["usr/bin", "usr/sbin", "usr/lib/udev", "etc", "run", "tmp", "root", "dev"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    for name in ["bin", "sbin", "lib"] {
        symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), mode(0o1777)).unwrap();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find(|path| Path::new(path).exists())
        .expect("busybox, which runs commands in the root: install busybox-static");
    fs::copy(busybox, root.join("usr/bin/busybox")).unwrap();
    for name in ["sh", "cat", "ls", "env", "stat", "echo", "rm", "kill", "sort", "test"] {
        symlink("busybox", root.join("usr/bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nlldpd:x:104:111::/:\n")
        .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nadm:x:4:\nlldpd:x:111:\n").unwrap();
    dir
}

/// Writes files with these names and texts. A name that ends in `*` is executable.
pub fn write_files(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name.trim_end_matches('*'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let bits = if name.ends_with('*') { 0o755 } else { 0o644 };
        fs::set_permissions(&path, mode(bits)).unwrap();
    }
}

/// Returns an error with all its causes, one per line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!("\ncaused by: {cause}"));
        source = cause.source();
    }
    text
}
