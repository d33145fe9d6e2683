//! A small FUSE file system for the sandbox's tests: everything in memory, except the content of
//! the base, which is read from a tar archive as it lies. No cache tricks, one big lock: what is
//! tested with it is the sandbox, not the tree.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use overcoat::sandbox::{Found, FoundKind, Supervised};

const TTL: Duration = Duration::from_secs(3600);

pub enum Body {
    Dir(BTreeMap<Vec<u8>, u64>),
    File(Vec<u8>),
    /// Content that is still in the archive: offset and length.
    Archived(usize, usize),
    Symlink(Vec<u8>),
    Special,
}

pub struct Node {
    pub body: Body,
    pub kind: FileType,
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub nlink: u32,
    pub mtime: SystemTime,
    pub parent: u64,
}

pub struct Tree {
    pub nodes: HashMap<u64, Node>,
    next: u64,
    archive: memmap2::Mmap,
    /// The largest id that the kernel can be told.
    pub max_id: u32,
}

#[derive(Clone)]
pub struct MemFs {
    tree: Arc<Mutex<Tree>>,
    notifier: Arc<OnceLock<fuser::Notifier>>,
}

impl MemFs {
    /// The tree in the tar archive at `path`.
    pub fn from_tar(path: &Path, max_id: u32) -> Self {
        let file = std::fs::File::open(path).unwrap();
        // SAFETY: the tests' own archive, which nothing changes meanwhile.
        let archive = unsafe { memmap2::Mmap::map(&file).unwrap() };
        let mut tree = Tree { nodes: HashMap::new(), next: 2, archive, max_id };
        tree.nodes.insert(1, node(FileType::Directory, 0o755, 1));
        tree.load();
        MemFs { tree: Arc::new(Mutex::new(tree)), notifier: Arc::default() }
    }

    pub fn lock(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap()
    }

    /// Where the kernel is told to forget what it knows.
    pub fn set_notifier(&self, notifier: fuser::Notifier) {
        let _ = self.notifier.set(notifier);
    }
}

impl Supervised for MemFs {
    fn lookup(&self, dir: u64, name: &[u8]) -> Result<Found, nix::errno::Errno> {
        let tree = self.lock();
        let ino = tree.lookup(dir, name).map_err(raw)?;
        let kind = match &tree.get(ino).body {
            Body::Dir(_) => FoundKind::Directory,
            Body::Symlink(target) => FoundKind::Symlink(target.clone()),
            _ => FoundKind::Other,
        };
        Ok(Found { ino, kind })
    }

    fn parent(&self, dir: u64) -> Result<u64, nix::errno::Errno> {
        Ok(self.lock().get(dir).parent)
    }

    fn mknod(
        &self,
        dir: u64,
        name: &[u8],
        mode: u32,
        (major, minor): (u32, u32),
        uid: u32,
        gid: u32,
    ) -> Result<(), nix::errno::Errno> {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFCHR => FileType::CharDevice,
            _ => FileType::BlockDevice,
        };
        let mut node = node(kind, (mode & 0o7777) as u16, dir);
        (node.uid, node.gid) = (uid, gid);
        node.rdev = libc::makedev(major, minor) as u32;
        self.lock().add(dir, name, node).map_err(raw)?;
        Ok(())
    }

    fn chown(&self, ino: u64, uid: Option<u32>, gid: Option<u32>) -> Result<(), nix::errno::Errno> {
        {
            let mut tree = self.lock();
            let node = tree.nodes.get_mut(&ino).ok_or(nix::errno::Errno::ENOENT)?;
            node.uid = uid.unwrap_or(node.uid);
            node.gid = gid.unwrap_or(node.gid);
        }
        let _ = self.notifier.get().unwrap().inval_inode(INodeNo(ino), -1, 0);
        Ok(())
    }
}

fn raw(error: Errno) -> nix::errno::Errno {
    nix::errno::Errno::from_raw(error.code())
}

pub fn node(kind: FileType, perm: u16, parent: u64) -> Node {
    let body = match kind {
        FileType::Directory => Body::Dir(BTreeMap::new()),
        FileType::RegularFile => Body::File(Vec::new()),
        _ => Body::Special,
    };
    let nlink = if kind == FileType::Directory { 2 } else { 1 };
    Node { body, kind, perm, uid: 0, gid: 0, rdev: 0, nlink, mtime: SystemTime::now(), parent }
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap()
}

fn octal(field: &[u8]) -> u64 {
    let digits = std::str::from_utf8(text(field)).unwrap().trim();
    u64::from_str_radix(digits, 8).unwrap_or(0)
}

impl Tree {
    pub fn get(&self, ino: u64) -> &Node {
        &self.nodes[&ino]
    }

    pub fn children(&mut self, dir: u64) -> Result<&mut BTreeMap<Vec<u8>, u64>, Errno> {
        match &mut self.nodes.get_mut(&dir).ok_or(Errno::ENOENT)?.body {
            Body::Dir(children) => Ok(children),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub fn lookup(&self, dir: u64, name: &[u8]) -> Result<u64, Errno> {
        match &self.nodes.get(&dir).ok_or(Errno::ENOENT)?.body {
            Body::Dir(children) => children.get(name).copied().ok_or(Errno::ENOENT),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The node at a path without symbolic links in it.
    pub fn find(&self, path: &str) -> Option<u64> {
        let names = path.split('/').filter(|name| !name.is_empty());
        names.into_iter().try_fold(1, |dir, name| self.lookup(dir, name.as_bytes()).ok())
    }

    pub fn add(&mut self, dir: u64, name: &[u8], mut node: Node) -> Result<u64, Errno> {
        let ino = self.next;
        let children = self.children(dir)?;
        if children.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        children.insert(name.to_vec(), ino);
        node.parent = dir;
        self.nodes.insert(ino, node);
        self.next += 1;
        Ok(ino)
    }

    /// The directory at a path; it and its parents are made.
    pub fn directory(&mut self, path: &Path) -> u64 {
        path.iter().fold(1, |dir, name| match self.lookup(dir, name.as_bytes()) {
            Ok(ino) => ino,
            Err(_) => {
                self.add(dir, name.as_bytes(), node(FileType::Directory, 0o755, dir)).unwrap()
            }
        })
    }

    /// A file at a path; an existing one is replaced.
    pub fn file(&mut self, path: &Path, content: &[u8], perm: u16) {
        let dir = self.directory(path.parent().unwrap());
        let name = path.file_name().unwrap().as_bytes();
        self.children(dir).unwrap().remove(name);
        let mut file = node(FileType::RegularFile, perm, dir);
        file.body = Body::File(content.to_vec());
        self.add(dir, name, file).unwrap();
    }

    fn load(&mut self) {
        let mut at = 0;
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        loop {
            let header: [u8; 512] = self.archive[at..at + 512].try_into().unwrap();
            if header[0] == 0 {
                break;
            }
            let size = octal(&header[124..136]) as usize;
            let start = at + 512;
            at = start + size.next_multiple_of(512);
            let content = |tree: &Self| tree.archive[start..start + size].to_vec();
            let mut name = text(&header[..100]).to_vec();
            let prefix = text(&header[345..500]);
            if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
                name = [prefix, b"/", &name].concat();
            }
            let mut link = text(&header[157..257]).to_vec();
            match header[156] {
                b'L' => {
                    long_name = Some(text(&content(self)).to_vec());
                    continue;
                }
                b'K' => {
                    long_link = Some(text(&content(self)).to_vec());
                    continue;
                }
                b'x' | b'g' => {
                    pax(&content(self), &mut long_name, &mut long_link);
                    continue;
                }
                _ => {}
            }
            name = long_name.take().unwrap_or(name);
            link = long_link.take().unwrap_or(link);
            let path = Path::new(OsStr::from_bytes(&name)).strip_prefix("./");
            let path = path.unwrap_or(Path::new(OsStr::from_bytes(&name)));
            let (major, minor) = (octal(&header[329..337]), octal(&header[337..345]));
            let kind = match header[156] {
                b'5' => FileType::Directory,
                b'2' => FileType::Symlink,
                b'3' => FileType::CharDevice,
                b'4' => FileType::BlockDevice,
                b'6' => FileType::NamedPipe,
                _ => FileType::RegularFile,
            };
            let mut node = node(kind, octal(&header[100..108]) as u16, 1);
            node.uid = octal(&header[108..116]) as u32;
            node.gid = octal(&header[116..124]) as u32;
            node.rdev = ((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)) as u32;
            node.mtime = UNIX_EPOCH + Duration::from_secs(octal(&header[136..148]));
            let Some(file_name) = path.file_name().map(|name| name.as_bytes().to_vec()) else {
                continue; // the root itself
            };
            let parent = self.directory(path.parent().unwrap());
            match header[156] {
                b'1' => {
                    let target = String::from_utf8(link).unwrap();
                    let ino = self.find(target.trim_start_matches("./")).unwrap();
                    self.nodes.get_mut(&ino).unwrap().nlink += 1;
                    self.children(parent).unwrap().insert(file_name, ino);
                    continue;
                }
                b'2' => node.body = Body::Symlink(link),
                b'0' | 0 => node.body = Body::Archived(start, size),
                _ => {}
            }
            if let Ok(ino) = self.lookup(parent, &file_name) {
                if let Body::Dir(children) = &mut self.nodes.get_mut(&ino).unwrap().body {
                    node.body = Body::Dir(std::mem::take(children));
                }
                self.nodes.insert(ino, node);
            } else {
                self.add(parent, &file_name, node).unwrap();
            }
        }
    }

    fn attr(&self, ino: u64) -> Result<FileAttr, Errno> {
        let node = self.nodes.get(&ino).ok_or(Errno::ENOENT)?;
        let size = match &node.body {
            Body::Dir(_) | Body::Special => 0,
            Body::File(content) | Body::Symlink(content) => content.len() as u64,
            Body::Archived(_, size) => *size as u64,
        };
        let shown = |id: u32| if id > self.max_id { 65534 } else { id };
        Ok(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: node.mtime,
            mtime: node.mtime,
            ctime: node.mtime,
            crtime: UNIX_EPOCH,
            kind: node.kind,
            perm: node.perm,
            nlink: node.nlink,
            uid: shown(node.uid),
            gid: shown(node.gid),
            rdev: node.rdev,
            blksize: 4096,
            flags: 0,
        })
    }

    fn content(&mut self, ino: u64) -> Result<&mut Vec<u8>, Errno> {
        if let Body::Archived(start, size) = self.nodes.get(&ino).ok_or(Errno::ENOENT)?.body {
            let content = self.archive[start..start + size].to_vec();
            self.nodes.get_mut(&ino).unwrap().body = Body::File(content);
        }
        match &mut self.nodes.get_mut(&ino).unwrap().body {
            Body::File(content) => Ok(content),
            _ => Err(Errno::EINVAL),
        }
    }

    fn remove(&mut self, dir: u64, name: &[u8], directory: bool) -> Result<(), Errno> {
        let ino = self.lookup(dir, name)?;
        if let Body::Dir(children) = &self.get(ino).body {
            if !directory {
                return Err(Errno::EISDIR);
            }
            if !children.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
        } else if directory {
            return Err(Errno::ENOTDIR);
        }
        self.children(dir)?.remove(name);
        // The node stays: somebody may have it open.
        self.nodes.get_mut(&ino).unwrap().nlink -= 1;
        Ok(())
    }
}

fn pax(records: &[u8], name: &mut Option<Vec<u8>>, link: &mut Option<Vec<u8>>) {
    let mut rest = records;
    while let Some(space) = rest.iter().position(|&byte| byte == b' ') {
        let length: usize = std::str::from_utf8(&rest[..space]).unwrap().parse().unwrap();
        let record = &rest[space + 1..length - 1];
        rest = &rest[length..];
        if let Some(path) = record.strip_prefix(b"path=") {
            *name = Some(path.to_vec());
        } else if let Some(path) = record.strip_prefix(b"linkpath=") {
            *link = Some(path.to_vec());
        }
    }
}

fn entry(tree: &Tree, ino: Result<u64, Errno>, reply: ReplyEntry) {
    match ino.and_then(|ino| tree.attr(ino)) {
        Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn empty(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn made(req: &Request, kind: FileType, mode: u32) -> Node {
    let mut node = node(kind, (mode & 0o7777) as u16, 1);
    (node.uid, node.gid) = (req.uid(), req.gid());
    node
}

impl Filesystem for MemFs {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let tree = self.lock();
        let found = tree.lookup(parent.0, name.as_bytes());
        entry(&tree, found, reply);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.lock().attr(ino.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut tree = self.lock();
        if let Some(size) = size
            && let Ok(content) = tree.content(ino.0)
        {
            content.resize(size as usize, 0);
        }
        let Some(node) = tree.nodes.get_mut(&ino.0) else { return reply.error(Errno::ENOENT) };
        if let Some(mode) = mode {
            node.perm = (mode & 0o7777) as u16;
        }
        node.uid = uid.unwrap_or(node.uid);
        node.gid = gid.unwrap_or(node.gid);
        match mtime {
            Some(TimeOrNow::SpecificTime(time)) => node.mtime = time,
            Some(TimeOrNow::Now) => node.mtime = SystemTime::now(),
            None => {}
        }
        match tree.attr(ino.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match &self.lock().get(ino.0).body {
            Body::Symlink(target) => reply.data(target),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFCHR => FileType::CharDevice,
            libc::S_IFBLK => FileType::BlockDevice,
            libc::S_IFIFO => FileType::NamedPipe,
            libc::S_IFSOCK => FileType::Socket,
            _ => FileType::RegularFile,
        };
        let mut node = made(req, kind, mode);
        node.rdev = rdev;
        let mut tree = self.lock();
        let ino = tree.add(parent.0, name.as_bytes(), node);
        entry(&tree, ino, reply);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let mut tree = self.lock();
        let ino = tree.add(parent.0, name.as_bytes(), made(req, FileType::Directory, mode));
        entry(&tree, ino, reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.lock().remove(parent.0, name.as_bytes(), false), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.lock().remove(parent.0, name.as_bytes(), true), reply);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let mut node = made(req, FileType::Symlink, 0o777);
        node.body = Body::Symlink(target.as_os_str().as_bytes().to_vec());
        let mut tree = self.lock();
        let ino = tree.add(parent.0, name.as_bytes(), node);
        entry(&tree, ino, reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut tree = self.lock();
        let result = (|| {
            let ino = tree.lookup(parent.0, name.as_bytes())?;
            if flags.contains(RenameFlags::RENAME_NOREPLACE)
                && tree.lookup(newparent.0, newname.as_bytes()).is_ok()
            {
                return Err(Errno::EEXIST);
            }
            tree.children(parent.0)?.remove(name.as_bytes());
            tree.children(newparent.0)?.insert(newname.as_bytes().to_vec(), ino);
            tree.nodes.get_mut(&ino).unwrap().parent = newparent.0;
            Ok(())
        })();
        empty(result, reply);
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let mut tree = self.lock();
        let result = tree.children(newparent.0).map(|children| {
            children.insert(newname.as_bytes().to_vec(), ino.0);
            ino.0
        });
        tree.nodes.get_mut(&ino.0).unwrap().nlink += 1;
        entry(&tree, result, reply);
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<fuser::LockOwner>,
        reply: ReplyData,
    ) {
        let tree = self.lock();
        let whole = match &tree.get(ino.0).body {
            Body::File(content) => content.as_slice(),
            Body::Archived(start, length) => &tree.archive[*start..start + length],
            _ => return reply.error(Errno::EINVAL),
        };
        let start = (offset as usize).min(whole.len());
        let end = (start + size as usize).min(whole.len());
        reply.data(&whole[start..end]);
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<fuser::LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut tree = self.lock();
        let Ok(content) = tree.content(ino.0) else { return reply.error(Errno::EINVAL) };
        let end = offset as usize + data.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(data);
        tree.nodes.get_mut(&ino.0).unwrap().mtime = SystemTime::now();
        reply.written(data.len() as u32);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut tree = self.lock();
        match tree.add(parent.0, name.as_bytes(), made(req, FileType::RegularFile, mode)) {
            Ok(ino) => {
                let attr = tree.attr(ino).unwrap();
                reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: fuser::ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096);
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let tree = self.lock();
        let Body::Dir(children) = &tree.get(ino.0).body else {
            return reply.error(Errno::ENOTDIR);
        };
        let dots = [(b".".as_slice(), ino.0), (b"..".as_slice(), tree.get(ino.0).parent)];
        let entries = dots.into_iter().chain(children.iter().map(|(name, &ino)| (&name[..], ino)));
        for (index, (name, ino)) in entries.enumerate().skip(offset as usize) {
            let kind = tree.get(ino).kind;
            if reply.add(INodeNo(ino), index as u64 + 1, kind, OsStr::from_bytes(name)) {
                break;
            }
        }
        reply.ok();
    }
}
