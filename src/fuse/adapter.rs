//! Translates FUSE requests to calls of the tree, and results to replies.
//!
//! To save requests, names, attributes, listings and negative lookups are valid in the kernel for a
//! year (except lent files that the image lacks), and `open`, `opendir`, `flush`, `fsync` and
//! `create` are answered with `ENOSYS` once, after which the kernel does not send them (`create`
//! becomes `mknod`, which needs no release).
//!
//! Protocol: `include/uapi/linux/fuse.h`. This file is long because it implements one trait with a
//! method for each request.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use fs_model::acl;
use fs_model::tree::{
    Entry, MknodArgs, RenameMode, SetAttr, TreeReadahead, XattrFlags, XattrSupport,
};
use fs_model::{Attr, Device, FileType, FsError, Ino, Time, Tree};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use provisioners::machine::CALLBACK_NAME;

use super::LookupCallback;
use super::allocator::{HighWater, trim_heaps};
use super::callers::Callers;
use super::errno::errno_of;
use super::faults::Faults;
use super::numbers::OtherNumbers;
use super::openers;
use super::owners::owner_of_copied_device;
use super::poller::DevicePoller;
use super::setcap;
use super::view::{OwnedView, file_type, time_from_kernel};
use super::workers::WorkerPool;

/// How long the kernel may cache replies: in effect, forever.
const TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// Inode numbers are never reused, so one generation suffices.
const GENERATION: Generation = Generation(0);
/// The largest write request, in bytes: the most that the kernel sends by default.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// Reads of at least this many bytes are decoded by the workers, so that the kernel's readahead
/// decodes several blocks at a time. For smaller ones, waking a worker costs more than it saves.
const WORKER_READ_BYTES: u32 = 64 << 10;
pub(super) struct Adapter {
    tree: Arc<Tree>,
    view: OwnedView,
    callers: Callers,
    workers: WorkerPool,
    poller: DevicePoller,
    faults: Arc<Faults>,
    held: HighWater,
    callback: Arc<OnceLock<LookupCallback>>,
    numbers: OtherNumbers,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Answers a request with `$ok` for the value, or with the error's errno.
macro_rules! answer {
    ($self:ident, $reply:ident, $result:expr, $value:pat => $ok:expr) => {
        match $result {
            Ok($value) => $ok,
            Err(error) => $reply.error($self.errno(&error)),
        }
    };
}

impl Adapter {
    #[expect(clippy::too_many_arguments, reason = "it is called once")]
    pub(super) fn new(
        tree: Arc<Tree>,
        view: OwnedView,
        callers: Callers,
        workers: WorkerPool,
        poller: DevicePoller,
        faults: Arc<Faults>,
        callback: Arc<OnceLock<LookupCallback>>,
        numbers: OtherNumbers,
    ) -> Self {
        let held = HighWater::default();
        Adapter { tree, view, callers, workers, poller, faults, held, callback, numbers }
    }

    /// Runs the callback, then answers with `ENOENT`. The kernel does not cache this answer: each
    /// lookup runs it.
    fn run_callback(&self, reply: ReplyEntry) {
        let callback = self.callback.clone();
        std::thread::spawn(move || {
            if let Some(action) = callback.get() {
                action();
            }
            reply.error(Errno::ENOENT);
        });
    }

    fn errno(&self, error: &FsError) -> Errno {
        self.faults.note(error);
        errno_of(error)
    }

    fn reply_entry(&self, reply: ReplyEntry, entry: &Entry) {
        reply.entry(&ttl(entry), &self.view.attr(entry.ino, &entry.attr), GENERATION);
        self.view.owners.note_path(&self.tree, entry.ino);
    }

    fn reply_attr(&self, reply: ReplyAttr, ino: Ino, attr: &Attr) {
        reply.attr(&TTL, &self.view.attr(ino, attr));
        self.view.owners.note_path(&self.tree, ino);
    }

    fn make(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        node: &MknodArgs<'_>,
        reply: ReplyEntry,
    ) {
        let _request = self.poller.request();
        if let Err(errno) = self.callers.may_add(req, &self.tree, Ino(parent.0)) {
            return reply.error(errno);
        }
        let (parent, name) = (Ino(parent.0), name.as_bytes());
        let made = match self.tree.mknod(parent, name, node) {
            // The lookup was answered as if the lent file did not exist.
            Err(FsError::Exists) => self.tree.create_at_stand_in(parent, name, node),
            made => made,
        };
        answer!(self, reply, made, entry => self.reply_entry(reply, &entry));
    }

    /// Answers that a name does not exist. The kernel may cache this for the time `ttl`.
    fn reply_nothing(&self, reply: ReplyEntry, ttl: &Duration) {
        // Inode number 0 is a negative entry.
        let nothing = Attr::new(FileType::Regular, 0, Time::default());
        reply.entry(ttl, &self.view.attr(Ino(0), &nothing), GENERATION);
    }

    /// Returns freed memory to the system. Call this after requests that may allocate or free
    /// memory.
    fn trim_after_shrinking(&self) {
        if self.held.has_fallen(self.tree.usage().used) {
            self.workers.run(trim_heaps);
        }
    }

    /// Clears the set-group-id bit of a file whose group an unprivileged caller is not in, as
    /// setting a mode or an ACL does. The kernel's flag for it is in a part of the request that
    /// fuser does not pass on; of the caller's groups, the request has only the first.
    fn clear_setgid(&self, req: &Request, ino: Ino) {
        let Ok(attr) = self.tree.attr(ino) else { return };
        if attr.mode & 0o2000 != 0
            && !self.callers.is_root(req)
            && self.callers.group(req) != attr.gid
        {
            let set = SetAttr { mode: Some(attr.mode & !0o2000), ..SetAttr::default() };
            let _ = self.tree.set_attr(ino, &set);
        }
    }

    fn decode_ahead(&self, next: Option<TreeReadahead>) {
        if let Some(next) = next {
            let tree = self.tree.clone();
            self.workers.run(move || tree.prefetch(next));
        }
    }

    fn read_now(&self, ino: Ino, offset: u64, size: u32, reply: ReplyData) {
        read(&self.tree, &self.faults, ino, offset, size, reply);
    }
}

/// Reads into the thread's buffer, and replies.
fn read(tree: &Tree, faults: &Faults, ino: Ino, offset: u64, size: u32, reply: ReplyData) {
    BUFFER.with_borrow_mut(|buffer| {
        let size = size as usize;
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        match tree.read(ino, offset, &mut buffer[..size]) {
            Ok(len) => reply.data(&buffer[..len]),
            Err(error) => {
                faults.note(&error);
                reply.error(errno_of(&error));
            }
        }
    });
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Not FUSE_ASYNC_DIO: with it the kernel does not invalidate cached data that was read
        // during an asynchronous direct write.
        let wanted = InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            // Only the tree knows whether a directory has a default ACL, which replaces the umask.
            | InitFlags::FUSE_DONT_MASK
            // Without it, if there are extended attributes, each write requests the file's
            // capabilities, and each change of owner its attributes.
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            // Without it the kernel refuses ACLs in a user namespace. Where ACLs are not shown they
            // can still be set, and their loss is reported.
            | InitFlags::FUSE_POSIX_ACL;
        for flag in wanted.iter() {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "not supported by the kernel's FUSE");
            }
        }
        if let Err(largest) = config.set_max_write(MAX_WRITE_BYTES) {
            let _ = config.set_max_write(largest);
        }
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent.0 == Ino::ROOT.0 && name == CALLBACK_NAME {
            return self.run_callback(reply);
        }
        let _request = self.poller.request();
        match self.tree.lookup(Ino(parent.0), name.as_bytes()) {
            // The kernel then creates the file, with the mode that the program asks for.
            Ok(entry) if entry.is_stand_in && openers::creates(req.pid(), name.as_bytes()) => {
                self.tree.forget(entry.ino, 1);
                self.reply_nothing(reply, &Duration::ZERO);
            }
            Ok(entry) => self.reply_entry(reply, &entry),
            Err(FsError::NotFound) => self.reply_nothing(reply, &TTL),
            Err(error) => reply.error(self.errno(&error)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, count: u64) {
        self.tree.forget(Ino(ino.0), count);
        self.trim_after_shrinking();
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let _request = self.poller.request();
        answer!(self, reply, self.tree.attr(Ino(ino.0)),
            attr => self.reply_attr(reply, Ino(ino.0), &attr));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let _request = self.poller.request();
        let times = atime.is_some() || mtime.is_some();
        let nothing = mode.is_none() && uid.is_none() && gid.is_none() && size.is_none() && !times;
        // A request that truncates changes the content. One without changes announces that an
        // unprivileged process, or one in a user namespace, will do so. Root keeps the bits, as on
        // the machine, also in a user namespace.
        let by_user = (size.is_some() || nothing) && !self.callers.is_root(req);
        // A process that has the file open had the right to write it.
        let truncates = size.is_some() && fh.is_none();
        let to_now = |time: Option<TimeOrNow>| time.is_none_or(|time| time == TimeOrNow::Now);
        let to_now = to_now(atime) && to_now(mtime);
        let needs_owner = mode.is_some() || uid.is_some() || gid.is_some() || times && !to_now;
        if (needs_owner || truncates || times)
            && let Err(errno) = self.callers.may_set(req, &self.tree, Ino(ino.0), !needs_owner)
        {
            return reply.error(errno);
        }
        if mtime.is_some() && !to_now {
            self.callers.copies.note_times(req.pid(), Ino(ino.0));
        }
        if uid.is_some() || gid.is_some() {
            self.callers.copies.note_owner(req.pid(), Ino(ino.0), uid, gid);
        }
        let (uid, gid) = match self.view.view.unprivileged {
            true => owner_of_copied_device(&self.tree, Ino(ino.0), uid, gid),
            false => (uid, gid),
        };
        let real_uid = uid.map(|uid| self.view.real_user(uid));
        let real_gid = gid.map(|gid| self.view.real_group(gid));
        let (Some(real_uid), Some(real_gid)) = (transposed(real_uid), transposed(real_gid)) else {
            // Several owners are shown as this id, because there are no more aliases.
            return reply.error(Errno::EOVERFLOW);
        };
        let set = SetAttr {
            drop_setid: by_user || uid.is_some() || gid.is_some(),
            changed_by_group: by_user.then(|| self.callers.group(req)),
            mode: mode.map(|mode| (mode & 0o7777) as u16),
            uid: real_uid,
            gid: real_gid,
            size,
            atime: atime.map(time_from_kernel),
            mtime: mtime.map(time_from_kernel),
            is_touch: mtime == Some(TimeOrNow::Now),
        };
        let ino = Ino(ino.0);
        if truncates
            && self.tree.is_stand_in(ino)
            && let Ok(attr) = self.tree.attr(ino)
        {
            // The program replaces a file that it has seen, which the image lacks.
            let mode = Some(openers::mode_of_replaced(&self.tree, req.pid(), attr.mode));
            let _ = self.tree.set_attr(ino, &SetAttr { mode, ..SetAttr::default() });
        }
        answer!(self, reply, self.tree.set_attr(ino, &set), attr => {
            let shown = self.view.attr(ino, &attr);
            self.numbers.invalidate(ino, move || reply.attr(&TTL, &shown));
            self.view.owners.note_path(&self.tree, ino);
        });
        if size == Some(0) {
            self.faults.note_emptied(ino);
        }
        if size.is_some() {
            self.trim_after_shrinking();
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let _request = self.poller.request();
        answer!(self, reply, self.tree.read_link(Ino(ino.0)), target => reply.data(&target));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(kind) = FileType::from_mode(mode) else { return reply.error(Errno::EINVAL) };
        let (uid, gid) = self.callers.owner(req);
        let rdev = Device::from_u32(rdev);
        let (mode, umask) = ((mode & 0o7777) as u16, (umask & 0o777) as u16);
        let node = MknodArgs { rdev, umask, ..MknodArgs::plain(kind, mode, uid, gid) };
        self.make(req, parent, name, &node, reply);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (uid, gid) = self.callers.owner(req);
        let (mode, umask) = ((mode & 0o7777) as u16, (umask & 0o777) as u16);
        let node = MknodArgs { umask, ..MknodArgs::directory(mode, uid, gid) };
        self.make(req, parent, name, &node, reply);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_bytes();
        let (uid, gid) = self.callers.owner(req);
        self.make(req, parent, name, &MknodArgs::symlink(target, uid, gid), reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _request = self.poller.request();
        if let Err(errno) = self.callers.may_remove(req, &self.tree, Ino(parent.0), name.as_bytes())
        {
            return reply.error(errno);
        }
        answer!(self, reply, self.tree.unlink(Ino(parent.0), name.as_bytes()), () => reply.ok());
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _request = self.poller.request();
        if let Err(errno) = self.callers.may_remove(req, &self.tree, Ino(parent.0), name.as_bytes())
        {
            return reply.error(errno);
        }
        answer!(self, reply, self.tree.rmdir(Ino(parent.0), name.as_bytes()), () => reply.ok());
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let _request = self.poller.request();
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            // RENAME_WHITEOUT would make a visible whiteout; kernel overlayfs refuses it too.
            return reply.error(Errno::EINVAL);
        };
        for (dir, name) in [(parent, name), (new_parent, new_name)] {
            if let Err(errno) =
                self.callers.may_remove(req, &self.tree, Ino(dir.0), name.as_bytes())
            {
                return reply.error(errno);
            }
        }
        let renamed = self.tree.rename(
            Ino(parent.0),
            name.as_bytes(),
            Ino(new_parent.0),
            new_name.as_bytes(),
            mode,
        );
        answer!(self, reply, renamed, () => reply.ok());
    }

    fn link(&self, req: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _request = self.poller.request();
        let may_link = self.callers.may_link(req, &self.tree, Ino(ino.0));
        let allowed = may_link.and_then(|()| self.callers.may_add(req, &self.tree, Ino(parent.0)));
        if let Err(errno) = allowed {
            return reply.error(errno);
        }
        answer!(self, reply, self.tree.link(Ino(ino.0), Ino(parent.0), name.as_bytes()),
            entry => self.reply_entry(reply, &entry));
    }

    // `O_TMPFILE` has no method here: fuser does not decode `FUSE_TMPFILE`, so that the kernel
    // fails with `EOPNOTSUPP`.
    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let request = self.poller.request();
        let ino = Ino(ino.0);
        let ahead = self.tree.readahead(ino, offset, size as usize);
        if size < WORKER_READ_BYTES || self.tree.is_cached(ino, offset, size as usize) {
            self.decode_ahead(ahead);
            return self.read_now(ino, offset, size, reply);
        }
        request.hand_over();
        let (tree, faults) = (self.tree.clone(), self.faults.clone());
        self.workers.run(move || read(&tree, &faults, ino, offset, size, reply));
        self.decode_ahead(ahead);
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _request = self.poller.request();
        let ino = Ino(ino.0);
        // The kernel sets the flag for each process in a user namespace.
        if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) && !self.callers.is_root(req) {
            let _ = self.tree.drop_setid(ino, self.callers.group(req));
        }
        // The kernel computes the end of the file from its cache. If this request makes a lent file
        // the image's own, its end is elsewhere.
        let written = match flags.0 & libc::O_APPEND {
            0 => self.tree.write(ino, offset, data),
            _ => self.tree.append(ino, data),
        };
        if write_flags.contains(WriteFlags::FUSE_WRITE_CACHE)
            && let Err(error) = &written
        {
            self.faults.note_lost(ino, error);
        }
        answer!(self, reply, written, written => {
            self.numbers.invalidate(ino, move || reply.written(written as u32));
        });
        self.trim_after_shrinking();
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let _request = self.poller.request();
        let Some(end) = offset.checked_add(length) else { return reply.error(Errno::EFBIG) };
        let ino = Ino(ino.0);
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let usage = self.tree.usage();
        let result = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            // Memory is allocated by writes. Refuse only lengths that could never be allocated.
            0 if length > usage.limit.saturating_sub(usage.used) => {
                Err(FsError::NoSpace { limit: usage.limit })
            }
            // This still updates the file's times.
            0 if keep_size => self.tree.extend(ino, 0),
            0 => self.tree.extend(ino, end),
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => self.tree.zero(ino, offset..end, false),
            libc::FALLOC_FL_ZERO_RANGE => self.tree.zero(ino, offset..end, !keep_size),
            _ => Err(FsError::NotSupported),
        };
        answer!(self, reply, result, () => self.numbers.invalidate(ino, move || reply.ok()));
        self.trim_after_shrinking();
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let _request = self.poller.request();
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let result =
            self.tree.next_data(Ino(ino.0), offset).and_then(|data| match (whence, data) {
                (libc::SEEK_DATA, Some(data)) => Ok(data.start),
                (libc::SEEK_DATA, None) => Err(FsError::NoSuchOffset),
                (libc::SEEK_HOLE, Some(data)) if data.start <= offset => Ok(data.end),
                (libc::SEEK_HOLE, _) => Ok(offset),
                _ => Err(FsError::Invalid),
            });
        answer!(self, reply, result, at => reply.offset(at as i64));
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let _request = self.poller.request();
        // The reply has 32 bits; the caller repeats the request for more.
        let len = len.min(1 << 30);
        let copied =
            self.tree.copy_range(Ino(ino_in.0), offset_in, Ino(ino_out.0), offset_out, len);
        answer!(self, reply, copied, copied => {
            let reply = move || reply.written(copied as u32);
            self.numbers.invalidate(Ino(ino_out.0), reply);
        });
        self.trim_after_shrinking();
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let _request = self.poller.request();
        let listed = self.tree.read_dir(Ino(ino.0), offset, |item| {
            let kind = file_type(item.kind);
            !reply.add(INodeNo(item.ino.0), item.next, kind, OsStr::from_bytes(item.name))
        });
        answer!(self, reply, listed, () => reply.ok());
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _request = self.poller.request();
        let listed = self.tree.read_dir_plus(Ino(ino.0), offset, |item, entry| {
            let attr = self.view.attr(entry.ino, &entry.attr);
            let name = OsStr::from_bytes(item.name);
            !reply.add(INodeNo(item.ino.0), item.next, name, &ttl(entry), &attr, GENERATION)
        });
        answer!(self, reply, listed, () => reply.ok());
        self.view.owners.note_path(&self.tree, Ino(ino.0));
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let _request = self.poller.request();
        // Shells and interpreters ask for each script whether it is a terminal.
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // Files are always ready: after this the kernel does not ask.
        reply.error(Errno::ENOSYS);
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let _request = self.poller.request();
        const BLOCK: u64 = 4096;
        let usage = self.tree.usage();
        let (blocks, free) = (usage.limit / BLOCK, usage.limit.saturating_sub(usage.used) / BLOCK);
        // Inodes use memory like file data: report as many as fit into the free memory.
        let free_inodes = free * 8;
        let inodes = free_inodes + usage.inodes;
        reply.statfs(blocks, free, free, inodes, free_inodes, BLOCK as u32, 255, BLOCK as u32);
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let _request = self.poller.request();
        let flags = match flags {
            libc::XATTR_CREATE => XattrFlags::Create,
            libc::XATTR_REPLACE => XattrFlags::Replace,
            _ => XattrFlags::Any,
        };
        let (ino, name) = (Ino(ino.0), name.as_bytes());
        if let Err(errno) = self.callers.may_set_xattr(req, &self.tree, ino, name, false) {
            return reply.error(errno);
        }
        if name == setcap::CAPABILITY
            && !self.tree.xattr_support().has(name)
            && setcap::has_fallback(&self.tree, req.pid())
        {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let Some(value) = self.view.real_value(name, value) else {
            return reply.error(Errno::EINVAL);
        };
        let result = self.tree.set_xattr(ino, name, &value, flags);
        if result.is_ok() && name == acl::ACCESS {
            self.clear_setgid(req, ino);
        }
        answer!(self, reply, result, () => reply.ok());
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if self.tree.xattr_support() == XattrSupport::None {
            return reply.error(Errno::ENOSYS);
        }
        let _request = self.poller.request();
        answer!(self, reply, self.tree.xattr(Ino(ino.0), name.as_bytes()),
            value => reply_sized(reply, size, &self.view.shown_value(name.as_bytes(), value)));
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if self.tree.xattr_support() == XattrSupport::None {
            return reply.error(Errno::ENOSYS);
        }
        let _request = self.poller.request();
        answer!(self, reply, self.tree.xattrs(Ino(ino.0)), xattrs => {
            let mut names = Vec::new();
            for (name, _) in xattrs {
                names.extend_from_slice(&name);
                names.push(0);
            }
            reply_sized(reply, size, &names);
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _request = self.poller.request();
        let (ino, name) = (Ino(ino.0), name.as_bytes());
        if let Err(errno) = self.callers.may_set_xattr(req, &self.tree, ino, name, true) {
            return reply.error(errno);
        }
        answer!(self, reply, self.tree.remove_xattr(ino, name), () => reply.ok());
    }
}

/// Returns the time for which the kernel may cache an entry. A lent file that the image lacks is
/// looked up each time, because it does not exist for programs that create it.
fn ttl(entry: &Entry) -> Duration {
    if entry.is_stand_in { Duration::ZERO } else { TTL }
}

/// Transposes an optional id that may be ambiguous; `None` if it is.
fn transposed(id: Option<Option<u32>>) -> Option<Option<u32>> {
    match id {
        Some(None) => None,
        Some(id) => Some(id),
        None => Some(None),
    }
}

/// Replies with a value or, if `size` is 0, with its length.
fn reply_sized(reply: ReplyXattr, size: u32, value: &[u8]) {
    if size == 0 {
        reply.size(value.len() as u32);
    } else if value.len() > size as usize {
        reply.error(Errno::ERANGE);
    } else {
        reply.data(value);
    }
}
