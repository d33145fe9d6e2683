//! Builds base images: a Debian root from mmdebstrap's tar stream, without a tree on disk, or an
//! imported root.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use fs_model::tree::Follow;
use fs_model::{FileType, Tree};
use provisioners::image::{Debootstrap, Image, ImageLocation, Root};

use super::error::BuildError;
use super::job::{BuildJob, write_log};
use super::options::BuildOptions;
use super::reporter::Reporter;
use crate::root::RootError;
use crate::root::import::{self, RootImportError};
use crate::root::lend::{Host, NEUTRAL_HOSTNAME};
use crate::root::mounted_tree::MountedTree;
use crate::sandbox::{MissingRequirement, Privilege, Signals, default_environment, find_program};
use crate::text::error::describe;
use crate::text::escape::escape;
use crate::text::list;

/// Builds a base image and seals it.
pub(super) fn build(
    image: &Image,
    root: &Root,
    options: &BuildOptions,
    reporter: &Arc<dyn Reporter>,
) -> Result<(), BuildError> {
    let mut job = BuildJob::new(image, options, reporter)?;
    // Reports a difference between the base and its source.
    let mut warn = |note: String| reporter.warning(&note);
    let composed = job.compose()?;
    let privilege = match root {
        Root::Debian(debootstrap) => {
            let privilege = job.select_privilege(&composed)?;
            let (proxy, log) = (image.apt_proxy.as_deref(), job.log.as_deref());
            let (epoch, tree) = (job.epoch, composed.tree());
            let output = install(debootstrap, proxy, epoch, log, &privilege, tree, reporter)?;
            job.first_log = format!("=== mmdebstrap\n{output}").into_bytes();
            remove_copies(composed.mounted_tree())?;
            privilege
        }
        Root::From(path) => {
            reporter.status(&format!("importing {}", path.display()));
            let results = image.output_places_below(&ImageLocation::of(path).file);
            let results: Vec<Vec<u8>> =
                results.into_iter().map(|path| path.into_os_string().into_vec()).collect();
            let skip = |path: &[u8]| is_excluded(path) || results.iter().any(|one| one == path);
            import::import_path(composed.tree(), path, skip, &mut warn)?;
            let removed = import::container_files::remove(composed.tree())?;
            let change = "removed files of a running container or system";
            report_paths(change, &removed, &**reporter);
            let added = import::add_mount_points(composed.tree())?;
            report_paths("added the missing mount points", &added, &**reporter);
            job.select_privilege(&composed)?
        }
    };
    let signals = Signals::take()?;
    let root = composed.start(privilege)?;
    job.finish(root, signals)
}

/// Maximum number of paths listed in a message.
const MAX_LISTED_PATHS: usize = 8;

/// Reports the paths that were changed in an imported root.
fn report_paths(change: &str, paths: &[Vec<u8>], reporter: &dyn Reporter) {
    if paths.is_empty() {
        return;
    }
    let each = paths.iter().map(|path| format!("/{}", escape(path)));
    reporter.status(&format!("{change}: {}", list::joined(each, MAX_LISTED_PATHS)));
}

/// Installs a new Debian root into `tree`. Returns the messages of mmdebstrap.
fn install(
    debootstrap: &Debootstrap,
    proxy: Option<&str>,
    epoch: Option<u64>,
    log: Option<&Path>,
    privilege: &Privilege,
    tree: &Tree,
    reporter: &Arc<dyn Reporter>,
) -> Result<String, BuildError> {
    reporter.status(&format!(
        "installing {} ({}) with mmdebstrap",
        debootstrap.release, debootstrap.variant
    ));
    let mut mmdebstrap = Mmdebstrap::start(debootstrap, proxy, epoch, privilege, reporter)?;
    let stream = mmdebstrap.child.stdout.take();
    let stream = stream.ok_or_else(|| std::io::Error::other("no output pipe"))?;
    // After a failure of mmdebstrap, they are only about its incomplete output.
    let mut notes = Vec::new();
    let imported = import::tar(tree, stream, is_excluded, &mut |note: String| notes.push(note));
    let messages = match &imported {
        Ok(()) => mmdebstrap.finish(log, "")?,
        // A truncated stream is usually the result of a failure of mmdebstrap itself.
        Err(error @ RootImportError::Tar(_)) => {
            mmdebstrap.finish(log, &format!("; {}", describe(error)))?
        }
        // mmdebstrap fails as a result of this error, so its own status is not reported.
        Err(_) => {
            drop(mmdebstrap);
            String::new()
        }
    };
    notes.iter().for_each(|note| reporter.warning(note));
    imported?;
    Ok(messages)
}

/// Removes the files that mmdebstrap copies from the host, unless a package replaced them.
fn remove_copies(mounted_tree: &MountedTree) -> Result<(), BuildError> {
    let host = Host::current();
    for path in ["/etc/hostname", "/etc/resolv.conf"] {
        let content = mounted_tree.read(path.as_bytes()).map_err(RootError::from)?;
        let found = mounted_tree.stat(path.as_bytes(), Follow::No).map_err(RootError::from)?;
        let is_file = found.is_some_and(|(_, attr)| attr.kind == FileType::Regular);
        if is_file && content.is_some_and(|content| is_copy(&host, path, &content)) {
            mounted_tree.remove(path.as_bytes()).map_err(RootError::from)?;
        }
    }
    Ok(())
}

/// Returns whether `content` is the file that mmdebstrap copied from the host to `path`. A copy of
/// `resolv.conf` lacks the search domains, which a hook in [`Mmdebstrap::start`] removes.
fn is_copy(host: &Host, path: &str, content: &[u8]) -> bool {
    let without_search = |text: &[u8]| -> Vec<u8> {
        let is_search = |line: &&[u8]| {
            let line = line.trim_ascii_start();
            line.starts_with(b"search") || line.starts_with(b"domain")
        };
        text.split_inclusive(|&b| b == b'\n')
            .filter(|line| !is_search(line))
            .flatten()
            .copied()
            .collect()
    };
    host.read(path).is_some_and(|own| own == content || without_search(&own) == content)
}

/// File in which mmdebstrap stores the apt options of its command line.
const APT_OPTIONS: &[u8] = b"etc/apt/apt.conf.d/99mmdebstrap";

/// Returns whether a path of a bootstrapped root is excluded from the base: device nodes, which the
/// target's kernel creates, and apt options, which are specific to this host.
fn is_excluded(path: &[u8]) -> bool {
    path.starts_with(b"dev/") || path == APT_OPTIONS
}

/// A running mmdebstrap. It is terminated with all its descendants when this process ends or the
/// value is dropped.
///
/// It leads a process group that also contains a watcher. The watcher reads a pipe whose other end
/// this process holds; at end of file it terminates the group, and then removes the temporary
/// directory.
///
/// As root, mmdebstrap runs in mount and process namespaces of its own, as it does by itself
/// without root: they end with its mounts and all processes that maintainer scripts have left.
struct Mmdebstrap {
    child: Child,
    /// Thread that collects standard error.
    stderr: Option<JoinHandle<String>>,
    /// Directory of its chroot and other temporary files.
    folder: PathBuf,
}

/// Number of last log lines in the error message of a failure.
const LOG_TAIL_LINES: usize = 10;

/// Shell script that starts the watcher and then executes mmdebstrap.
const WATCHER_SCRIPT: &str = r#"
exec 3<&0 </dev/null
{
    trap '' TERM; cat; kill -TERM 0
    while kill -0 $$; do sleep 0.1; done
    rm -rf --one-file-system "$TMPDIR"
} <&3 >/dev/null 2>&1 3<&- &
exec "$0" "$@" 3<&-
"#;

/// Arguments of unshare, for a first process that also waits for orphans.
const ROOT_NAMESPACES: [&str; 8] =
    ["--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"];

/// Shell script for the first process in the namespaces.
const ROOT_SCRIPT: &str = r#""$0" "$@"; exit $?"#;

/// Shell script that executes mmdebstrap in a root with a single id. The kernel rejects devpts with
/// the owner that mmdebstrap gives it.
const OUTSIDE_SCRIPT: &str = r#"export TMPDIR="$OVERCOAT_ROOT/tmp"
mkdir "$TMPDIR/bin" && cat >"$TMPDIR/bin/mount" <<'EOF' && chmod 755 "$TMPDIR/bin/mount" || exit
#!/bin/sh
PATH=${PATH#*:}
for argument; do
    shift
    case $argument in *,uid=5,*) argument="${argument%%,uid=5,*},${argument#*,uid=5,}" ;; esac
    set -- "$@" "$argument"
done
exec mount "$@"
EOF
PATH="$TMPDIR/bin:$PATH" exec "$0" "$@""#;

/// Hook that replaces the programs that start services by stubs, before packages other than the
/// essential ones are configured. mmdebstrap replaces some too, but before it installs them.
const STUBS_HOOK: &str = r##"cd "$1" || exit
for f in usr/sbin/start-stop-daemon sbin/start-stop-daemon usr/sbin/service; do
    [ -f "$f" ] && [ ! -e "$f.overcoat" ] || continue
    mv "$f" "$f.overcoat" &&
    printf '#!/bin/sh\necho "overcoat: no service starts during a build: $0 $*" >&2\n' >"$f" &&
    chmod 755 "$f" || exit
done
f=usr/sbin/policy-rc.d
[ -e "$f" ] || [ -L "$f" ] || { printf '#!/bin/sh\n# overcoat:\nexit 101\n' >"$f"; chmod 755 "$f"; }"##;

/// Hook that restores the programs, unless a package has replaced them.
const RESTORE_HOOK: &str = r#"cd "$1" || exit
for f in usr/sbin/start-stop-daemon sbin/start-stop-daemon usr/sbin/service; do
    [ -e "$f.overcoat" ] || continue
    if grep -q '"overcoat: ' "$f"; then mv "$f.overcoat" "$f"; else rm "$f.overcoat"; fi || exit
done
f=usr/sbin/policy-rc.d
if [ -f "$f" ] && grep -q '^# overcoat:$' "$f"; then rm "$f"; fi"#;

/// Hook that removes the host's search domains from a root before packages are configured in it.
const REMOVE_SEARCH_HOOK: &str = r#"f=$1/etc/resolv.conf; [ ! -f "$f" ] || [ -L "$f" ] || \
sed -i -e '/^[[:space:]]*search/d' -e '/^[[:space:]]*domain/d' "$f""#;

impl Mmdebstrap {
    fn start(
        from: &Debootstrap,
        proxy: Option<&str>,
        epoch: Option<u64>,
        privilege: &Privilege,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<Self, BuildError> {
        let program = find_program("mmdebstrap")
            .ok_or_else(|| MissingRequirement::program("mmdebstrap", "mmdebstrap"))?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WATCHER_SCRIPT]).process_group(0);
        // Maintainer scripts see the environment of mmdebstrap.
        command.env_clear().envs(default_environment(std::env::vars_os()));
        let folder = temporary_folder()?;
        if *privilege == Privilege::None {
            // A root in memory, in which all owners can be recorded.
            let layer = folder.join("empty");
            std::fs::create_dir(&layer)?;
            command.arg(format!("/proc/{}/exe", std::process::id())).args([
                "run",
                "--privilege",
                "none",
                "--outside",
            ]);
            if let Some(epoch) = epoch {
                command.arg(format!("--env=SOURCE_DATE_EPOCH={epoch}"));
            }
            command.arg(layer).args(["--", "sh", "-c", OUTSIDE_SCRIPT]);
            command.arg(program).arg("--mode=root");
        } else if rustix::process::geteuid().is_root() {
            let unshare = find_program("unshare")
                .ok_or_else(|| MissingRequirement::program("unshare", "util-linux"))?;
            command.arg(unshare).args(ROOT_NAMESPACES).arg(ROOT_SCRIPT).arg(program);
        } else {
            // In this mode mmdebstrap creates its own namespaces.
            command.arg(program).arg("--mode=unshare");
        }
        command.arg("--format=tar").arg(format!("--variant={}", from.variant));
        if !from.packages.is_empty() {
            command.arg(format!("--include={}", from.packages.join(",")));
        }
        if !from.components.is_empty() {
            command.arg(format!("--components={}", from.components.join(",")));
        }
        if let Some(architecture) = &from.architecture {
            command.arg(format!("--architectures={architecture}"));
        }
        // mmdebstrap does not read the host's apt configuration, such as proxies.
        let mut host = Host::current().with_proxy(proxy);
        for warning in host.resolve_proxies(&from.mirrors) {
            reporter.warning(&warning);
        }
        for option in host.apt_options() {
            command.arg(format!("--aptopt={option}"));
        }
        // Packages write the host name and domain into their files, so both must be the same on
        // every host. As root, `unshare --uts` limits the change to mmdebstrap.
        command.arg(format!("--setup-hook=hostname {NEUTRAL_HOSTNAME}"));
        command.arg(format!("--essential-hook={REMOVE_SEARCH_HOOK}"));
        command.arg("--skip=chroot/policy-rc.d,chroot/start-stop-daemon");
        command.arg(format!("--essential-hook={STUBS_HOOK}"));
        command.arg(format!("--customize-hook={RESTORE_HOOK}"));
        if let Some(keyring) = &from.keyring {
            let mut option = OsString::from("--keyring=");
            option.push(std::path::absolute(keyring)?);
            command.arg(option);
        }
        if let Some(epoch) = epoch {
            command.env("SOURCE_DATE_EPOCH", epoch.to_string());
        }
        command.env("TMPDIR", &folder);
        command.arg(&from.release).arg("-").args(&from.mirrors);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(BuildError::MmdebstrapStart)?;
        let reporter = reporter.clone();
        let stderr = child
            .stderr
            .take()
            .map(|stderr| std::thread::spawn(move || collect_stderr(stderr, &*reporter)));
        Ok(Mmdebstrap { child, stderr, folder })
    }

    /// Waits for mmdebstrap, and returns its standard error. On failure, writes it to the file
    /// `log` and returns an error that ends with `more` and the last lines.
    fn finish(mut self, log: Option<&Path>, more: &str) -> Result<String, BuildError> {
        // `wait` closes the child's stdin, on which the watcher would terminate mmdebstrap.
        let watched = self.child.stdin.take();
        let status = self.child.wait()?;
        drop(watched);
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        if status.success() {
            return Ok(stderr);
        }
        let mut text = format!("mmdebstrap failed ({status}){more}");
        // Lines with "I: " are progress messages.
        let lines: Vec<&str> = stderr.lines().filter(|line| !line.starts_with("I: ")).collect();
        for line in &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..] {
            text.push_str("\n  | ");
            text.push_str(line);
        }
        if stderr.contains("does not have a Release file") {
            text.push_str(
                "\nhelp: the mirror may not have this release: check `release` and `mirror`",
            );
        }
        if let Some(log) = log {
            write_log(log, stderr.as_bytes())?;
            text.push_str(&format!("\nthe whole log is in {}", log.display()));
        }
        Err(BuildError::Mmdebstrap(text))
    }
}

impl Drop for Mmdebstrap {
    fn drop(&mut self) {
        // `wait` closes the watcher's pipe first; it fails only if the child was already reaped.
        let _ = self.child.wait();
        // Without root, the chroot belongs to subordinate ids; mmdebstrap itself has removed it.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Creates a temporary directory for mmdebstrap: in memory, or in `TMPDIR` if it is set. The ids
/// that own its chroot can search it.
fn temporary_folder() -> Result<PathBuf, BuildError> {
    let memory = Path::new("/dev/shm");
    let parent = match std::env::var_os("TMPDIR") {
        Some(folder) => PathBuf::from(folder),
        None if memory.is_dir() => memory.to_owned(),
        None => std::env::temp_dir(),
    };
    let failed = BuildError::file("create a temporary directory in", &parent);
    let template = parent.join("overcoat-mmdebstrap.XXXXXX");
    let folder = nix::unistd::mkdtemp(&template).map_err(|error| failed(error.into()))?;
    std::fs::set_permissions(&folder, Permissions::from_mode(0o711))?;
    Ok(folder)
}

/// Reads mmdebstrap's standard error to its end; also reports each line.
fn collect_stderr(stderr: ChildStderr, reporter: &dyn Reporter) -> String {
    let mut collected = String::new();
    let mut lines = BufReader::new(stderr);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        reporter.step_output(text.as_bytes());
        collected.push_str(&text);
        line.clear();
    }
    collected
}
