//! The privilege `none`: a user namespace with a single id, in which the daemon answers all calls
//! that concern owners and credentials.

use crate::support::stage::{EACH_PRIVILEGE, Finished, Stage, Who, finish};

/// Runs a shell script on the Debian base.
fn run(stage: &Stage, who: Who, script: &str) -> Finished {
    let mut command = stage.overcoat(who);
    command.arg("run").arg(stage.debian()).args(["--", "sh", "-euc", script]);
    finish(&mut command)
}

/// Runs a script at each privilege, which must succeed with the same output. Returns the output.
#[track_caller]
fn same_output(stage: &Stage, script: &str) -> String {
    let outputs = EACH_PRIVILEGE.map(|who| run(stage, who, script).ok().text());
    assert_eq!(outputs[0], outputs[2], "root, and a single id");
    assert_eq!(outputs[0], outputs[1], "root, and subordinate ids");
    outputs[0].clone()
}

#[test]
fn programs_see_the_owners_that_they_set() {
    let stage = Stage::new();
    let text = same_output(
        &stage,
        "cd /srv; umask 022; mkdir d; touch d/f; ln -s f d/l; mkfifo d/p; mknod d/n b 8 1
         chown 5:7 d; chown -h 8:9 d/l; chown 60000:65534 d/f; chgrp mail d/p; chmod 4755 d/f
         mknod d/u b 8 2; mknod d/v c 1 3; chown nobody:nogroup d/u; chown 7:nogroup d/v
         cp -a d e; mv e/f e/g; sed -i s/x/y/ e/g; tar cf t d; mkdir x; tar xf t -C x
         exec 5<d/f; find . /etc/shadow /tmp /run -maxdepth 3 ! -name t ! -path '/run/*' \
           -exec stat -c '%n %a %u:%g %t:%T %F' {} + | LC_ALL=C sort
         stat -L -c '%u:%g' /proc/self/fd/5 /dev/fd/5; stat -c '%u:%g' - <d/f
         python3 -c 'import os; print(os.stat(\"d/f\").st_uid, os.fstat(5).st_gid)'
         touch /tmp/in /run/in; chown 3:4 /tmp/in /run/in; stat -c '%u:%g' /tmp/in /run/in",
    );
    for line in
        ["./d/f 4755 60000:65534", "./x/d/l 777 8:9", "/etc/shadow 640 0:42", "\n3:4\n3:4\n"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
}

/// Uses the owners 200001 and 300000 in the ways of programs that copy or become an owner.
const BEYOND: &str = "
    cd /srv/home; stat -c '%u:%g %n' * | sort
    sed -i s/a/b/ edited; cp -a edited copied; mv edited /tmp/m; mv /tmp/m moved
    tar cf /tmp/t copied; mkdir out; tar xf /tmp/t -C out; rm -r copied
    useradd --badname -u 200005 -m -d /srv/new beyond || test $? = 12
    setpriv --reuid 200001 --regid 300000 --clear-groups \
      sh -c 'id -u; id -g; echo text >>moved; mkdir made; mkdir /root/x || echo denied'
    su beyond -s /bin/sh -c 'echo >/srv/new/file; id -u'
    stat -c '%u:%g %n' * out/* /srv/new/* | sort
    rm /tmp/t; rm -f /etc/*-";

#[test]
fn owners_above_the_subordinate_ids_are_shown_truly() {
    let stage = Stage::new();
    stage.sh(
        "mkdir -p layer/srv/home; cd layer/srv/home; echo a >edited; echo a >other
              chown -R 200001:300000 .; cd ../..; find . | cpio -o -H newc --quiet >../beyond.cpio",
    );
    let outputs = [Who::Root, Who::Unprivileged].map(|who| {
        let output = stage.out(who).join("beyond.cpio.gz");
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian()).arg(stage.path("beyond.cpio"));
        command.arg("--save").arg(&output).args(["--no-manifest", "--", "sh", "-euc", BEYOND]);
        let mut done = finish(command.env("SOURCE_DATE_EPOCH", "0")).ok();
        if who == Who::Unprivileged {
            done = done.stderr_has(&["owners up to 300000", "usermod --add-subuids"]);
        }
        (done.text(), std::fs::read(output).unwrap())
    });
    assert_eq!(outputs[0].0, outputs[1].0);
    assert!(outputs[0].1 == outputs[1].1, "the archives differ");
    for line in ["200001:300000 edited", "200001:300000 made", "200005:1000 /srv/new/file"] {
        assert!(outputs[0].0.contains(line), "{line}: {}", outputs[0].0);
    }
}

#[test]
fn reports_name_the_privilege() {
    let stage = Stage::new();
    for (who, name) in EACH_PRIVILEGE.into_iter().zip(["root", "subordinate", "none"]) {
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian()).args(["--save", "x.cpio", "--json", "--", "true"]);
        let report: serde_json::Value =
            serde_json::from_str(&finish(&mut command).ok().text()).unwrap();
        assert_eq!(report["privilege"], name);
    }
}

#[test]
fn users_above_the_subordinate_ids_can_be_used_by_later_steps() {
    let stage = Stage::new();
    stage.write(
        "p/provisioner.yml",
        "steps:
           - groups: [{name: beyond, gid: 300000}]
           - users: [{name: beyond, uid: 200001, group: beyond}]
           - script: use\n",
    );
    stage.write("p/use", "su beyond -c 'id -u >~/id; id -g >>~/id'\n");
    let base = stage.debian();
    let image = format!("base: {}\nprovisioner: p\nnetwork: none\n", base.display());
    let image = stage.write("image.yml", image);
    let archives = [Who::Root, Who::Unprivileged].map(|who| {
        let output = stage.out(who).join("users.cpio.gz");
        let mut command = stage.overcoat(who);
        command.arg("build").arg(&image).arg("-o").arg(&output);
        finish(command.env("SOURCE_DATE_EPOCH", "0")).ok();
        assert_eq!(stage.archived_file(&output, "home/beyond/id"), "200001\n300000\n");
        std::fs::read(output).unwrap()
    });
    assert!(archives[0] == archives[1], "the archives differ");
}

#[test]
fn processes_have_the_credentials_that_they_set() {
    let stage = Stage::new();
    let program = stage.write("ids.py", CREDENTIALS);
    let bind = format!("{}:/ids.py:ro", program.display());
    let outputs = EACH_PRIVILEGE.map(|who| {
        let mut command = stage.overcoat(who);
        command.arg("run").args(["--bind", &bind]).arg(stage.debian());
        finish(command.args(["--", "python3", "/ids.py"])).ok().text()
    });
    assert_eq!(outputs[0], outputs[2], "root, and a single id");
    assert!(outputs[0].contains("lost (7, 7, 7)"), "{}", outputs[0]);
}

/// Changes credentials in several ways, also in threads, children and set-id programs.
const CREDENTIALS: &str = r#"
import os, subprocess, threading

def ids():
    return os.getresuid(), os.getresgid(), sorted(os.getgroups())

def child(name, action):
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            action()
            text = str(ids())
        except OSError as error:
            text = error.strerror + str(ids())
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    os.wait()
    print(name, os.read(read, 4096).decode())

def drop(uid=7, gid=8, groups=(8, 9)):
    os.setgroups(list(groups)); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)

def lost():
    drop(); os.setuid(0)

def back():
    os.seteuid(7); os.seteuid(0)

def regained():
    os.setresuid(0, 7, 0); os.seteuid(0); os.setgroups([3])

def thread():
    started = threading.Thread(target=drop); started.start(); started.join()

def orphan():
    drop()
    read, write = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os.read(0, 1)
            while os.getppid() != 1: pass
            os.write(write, str(ids()).encode()); os._exit(0)
        os._exit(0)
    os.close(write); os.wait(); os.close(0)
    print('orphan', os.read(read, 4096).decode(), flush=True)

print('start', ids())
for action in (drop, back, regained, thread, orphan):
    child(action.__name__, action)
child('lost', lost)
# The owner of files that another user makes, and the rights of that user.
os.mkdir('/srv/open'); os.chmod('/srv/open', 0o1777)
os.mkdir('/srv/closed', 0o755); open('/srv/open/root', 'w').close()
def files():
    drop()
    os.umask(0o22)
    os.mkdir('/srv/open/d'); open('/srv/open/d/f', 'w').close(); os.symlink('x', '/srv/open/d/l')
    for path in ('d', 'd/f', 'd/l'):
        found = os.lstat('/srv/open/' + path)
        print(path, found.st_uid, found.st_gid, oct(found.st_mode), flush=True)
    for what in (lambda: open('/srv/closed/x', 'w'), lambda: os.unlink('/srv/open/root'),
                 lambda: os.rmdir('/srv/closed'), lambda: os.chmod('/srv/closed', 0o777),
                 lambda: os.chown('/srv/open/d', 9, 9), lambda: os.stat('/root/x'),
                 lambda: os.rename('/srv/open/root', '/srv/open/d/r'),
                 lambda: os.link('/srv/open/d/f', '/srv/closed/l'),
                 lambda: os.utime('/srv/closed', (0, 0)), lambda: os.truncate('/etc/passwd', 0)):
        try:
            what(); print('done', flush=True)
        except OSError as error:
            print(error.strerror, flush=True)
    os.chown('/srv/open/d', -1, 9)
    print([os.access(path, os.W_OK) for path in ('/etc/passwd', '/srv/open/d', '/srv/closed')])
    print([os.access(path, os.R_OK) for path in ('/etc/passwd', '/etc/shadow', '/srv/open/d')], flush=True)
child('files', files)
# A set-id program, and one whose execution fails.
subprocess.run('cp /usr/bin/id /srv/open/id; chown 5:6 /srv/open/id; chmod 6755 /srv/open/id', shell=True)
def set_id():
    drop()
    print(subprocess.run('/srv/open/id', capture_output=True, text=True).stdout, end='', flush=True)
    os.chmod('/srv/open/d/f', 0o6755)
    try:
        os.execv('/srv/open/d/f', ['f'])
    except OSError as error:
        print(error.strerror, flush=True)
child('set_id', set_id)
# Without the saved id, an execution cannot return.
def hidden():
    os.setresuid(7, 7, 0)
    os.execv('/usr/bin/python3', ['python3', '-c', """
import os
try:
    os.setuid(0)
    print('found', flush=True)
except PermissionError:
    print('lost', os.getresuid(), flush=True)
"""])
child('hidden', hidden)
"#;

#[test]
fn users_cannot_change_attributes_of_files_of_root() {
    let stage = Stage::new();
    let program = stage.write("attributes.py", ATTRIBUTES);
    let bind = format!("{}:/attributes.py:ro", program.display());
    let results = EACH_PRIVILEGE.map(|who| {
        let mut command = stage.overcoat(who);
        let output = stage.out(who).join("x.tar");
        command.arg("run").args(["--bind", &bind]).arg(stage.debian()).arg("--save").arg(&output);
        command.args(["--no-manifest", "--", "python3", "/attributes.py"]);
        let text = finish(command.env("SOURCE_DATE_EPOCH", "0")).ok().text();
        (text, std::fs::read(output).unwrap())
    });
    let text = &results[0].0;
    for line in [
        "root set /srv/d user.x Permission denied",
        "root set /srv/f security.capability Operation not permitted",
        "root set /srv/f system.posix_acl_access Operation not permitted",
        "root remove /srv/f user.keep Permission denied",
        "root set /srv/sticky user.x Operation not permitted",
        "root set /srv/all user.x done",
        "root set /srv/all system.posix_acl_access Operation not permitted",
        "33 set /srv/own user.x done",
        "33 set /srv/own system.posix_acl_access done",
        "33 set /srv/own security.capability Operation not permitted",
        "root write /srv/capable done",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    for (who, (other, archive)) in EACH_PRIVILEGE.iter().zip(&results) {
        assert_eq!(other, text, "{who:?}");
        assert!(archive == &results[0].1, "the archives differ: {who:?}");
    }
}

/// Sets and removes attributes of files of root and of the own user, by a path, by a link and by a
/// descriptor.
const ATTRIBUTES: &str = r#"
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)

def make(name, mode, owner=0):
    path = '/srv/' + name
    if name in ('d', 'sticky'):
        os.mkdir(path)
    else:
        open(path, 'w').close()
    os.setxattr(path, 'user.keep', b'root')
    os.chown(path, owner, owner)
    os.chmod(path, mode)
    return path

paths = [make('d', 0o755), make('f', 0o644), make('sticky', 0o1777), make('all', 0o666),
         make('own', 0o644, 33)]
no_id = 0xffffffff
acl = struct.pack('<I', 2) + b''.join(
    struct.pack('<HHI', tag, 6, no_id) for tag in (1, 4, 32))
names = {'user.x': b'v', 'security.capability': bytes([1, 0, 0, 2, 0, 4, 0, 0] + [0] * 12),
         'security.other': b'v', 'system.posix_acl_access': acl}
capable = make('capable', 0o666)
os.setxattr(capable, 'security.capability', names['security.capability'])

def tried(*what):
    owner = os.stat(what[2]).st_uid or 'root'
    try:
        what[0]()
        print(owner, *what[1:], 'done')
    except OSError as error:
        print(owner, *what[1:], error.strerror)

if os.fork() == 0:
    os.setgroups([])
    os.setgid(33)
    os.setuid(33)
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        for name, value in names.items():
            if name == 'security.other' and 'own' in path:
                continue
            tried(lambda: os.setxattr(path, name, value), 'set', path, name)
            tried(lambda: os.setxattr(path, name, value, follow_symlinks=False), 'lset', path, name)
            tried(lambda: os.setxattr(fd, name, value), 'fset', path, name)
        tried(lambda: os.removexattr(path, 'user.keep'), 'remove', path, 'user.keep')
    # The kernel then removes the capabilities.
    tried(lambda: open(capable, 'w').write('x'), 'write', capable)
    import sys
    sys.stdout.flush()
    os._exit(0)
os.wait()
print(os.listxattr(capable))
"#;

#[test]
fn users_have_no_privileges_of_root() {
    let stage = Stage::new();
    let program = stage.write("try", PRIVILEGES);
    let bind = format!("{}:/try:ro", program.display());
    let outputs = EACH_PRIVILEGE.map(|who| {
        let mut command = stage.overcoat(who);
        command.arg("run").args(["--bind", &bind]).arg(stage.debian());
        let text = finish(command.args(["--", "sh", "-euc", AS_NOBODY])).ok().text();
        (who, text)
    });
    for (who, text) in &outputs {
        assert_eq!(text, &outputs[0].1, "{who:?}");
    }
    let wanted = "mount 1\numount 1\nhostname 1\ndomainname 1\nchroot 1\nunshare 1\nunshare 1\n\
                  mount 0\numount 0\nhostname 0\nchroot 0\nunshare 0\n";
    let text: String = outputs[0].1.replace("32\n", "1\n").replace("125\n", "1\n");
    assert!(text.starts_with(wanted), "{text}");
    if std::fs::read_to_string("/proc/sys/fs/protected_hardlinks").unwrap().trim() == "1" {
        assert!(text.ends_with("ln 1\nln 1\nln 1\nln 0\nln 0\n"), "{text}");
    }
}

const AS_NOBODY: &str = "
    mount -t tmpfs t /mnt
    as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups sh /try \"$@\"; }
    as_nobody mount -t tmpfs t /srv; as_nobody umount /mnt; as_nobody hostname zz
    as_nobody domainname zz; as_nobody chroot / /bin/true
    as_nobody unshare --mount true; as_nobody unshare --uts true
    sh /try mount -t tmpfs t /media; sh /try umount /media; sh /try hostname zz
    sh /try chroot / /bin/true; sh /try unshare --mount true
    mkdir -m 1777 /srv/open; cd /srv/open; umask 0; echo >all; echo >setid; chmod 6777 setid
    echo >root; chmod 644 root; su nobody -s /bin/sh -c 'echo >own; chmod 400 own'
    as_nobody ln /etc/shadow shadow; as_nobody ln root l1; as_nobody ln setid l2
    as_nobody ln all l3; as_nobody ln own l4";

const PRIVILEGES: &str = r#"
"$@" >/dev/null 2>&1
echo "$1 $?"
"#;

/// A program that attacks the supervisor: with threads that change the path of a call, with
/// children that are killed in calls, by other system call tables and by ways around the filter.
const HOSTILE: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char path[] = "/etc/passwd";
static volatile int stop;

static void *flip(void *unused) {
    while (!stop) {
        memcpy(path, "/etc/shadow", sizeof path);
        memcpy(path, "/etc/passwd", sizeof path);
    }
    return unused;
}

static void race(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, flip, NULL);
    int wrong = 0;
    for (int i = 0; i < 3000; i++) {
        struct stat found;
        if (stat(path, &found) != 0) continue;
        int shadow = (found.st_mode & 07777) == 0640;
        if (found.st_uid != 0 || found.st_gid != (shadow ? 42 : 0)) wrong++;
    }
    stop = 1;
    pthread_join(thread, NULL);
    printf("race %d\n", wrong);
}

static void *get(void *unused) {
    for (int i = 0; i < 200; i++) {
        int id = getuid();
        if (id != 0 && id != 7) return "wrong";
    }
    return unused;
}

static void threads(void) {
    if (fork() == 0) {
        pthread_t thread[8];
        for (int i = 0; i < 8; i++) pthread_create(&thread[i], NULL, get, NULL);
        int failed = setgid(8) || setuid(7);
        void *result = NULL;
        for (int i = 0; i < 8; i++) {
            void *one;
            pthread_join(thread[i], &one);
            if (one) result = one;
        }
        printf("threads %d %s %d %d\n", failed, result ? "wrong" : "right", getuid(), setuid(0));
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
}

static void killed(void) {
    for (int i = 0; i < 200; i++) {
        pid_t child = fork();
        if (child == 0) {
            struct stat found;
            for (;;) { stat("/etc/shadow", &found); chown("/etc/motd", 0, 0); getuid(); }
        }
        for (volatile int wait = 0; wait < i * 500; wait++) {}
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    printf("killed\n");
}

#ifdef __x86_64__
static long old_call(long number, long a, long b) {
    long result;
    asm volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b) : "memory", "r8", "r9", "r10", "r11");
    return result;
}

static void i386(void) {
    if (fork() == 0) {
        static unsigned buffer[64];
        static char name[] = "/etc/shadow";
        setgid(70000);
        setuid(7);
        long result = old_call(199, 0, 0);
        if (result == -ENOSYS) printf("i386 missing\n");
        else {
            printf("i386 %ld %ld %ld", result, old_call(24, 0, 0), old_call(47, 0, 0));
            long failed = old_call(195, (long) name, (long) buffer);
            printf(" %ld %o %u %u %ld\n", failed, buffer[4] & 07777, buffer[6], buffer[7], old_call(23, 0, 0));
        }
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
}
#endif

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    race();
    threads();
    killed();
#ifdef __x86_64__
    i386();
#endif
    struct rlimit limit = {5, 5};
    printf("limit %d", setrlimit(RLIMIT_LOCKS, &limit));
    printf(" %d\n", getuid());
    char ring[120] = {0};
    int failed = syscall(425, 4, ring); /* io_uring_setup */
    printf("ring %d %d\n", failed, errno == ENOSYS);
    struct stat found;
    printf("%d", stat("/etc/shadow", (void *) 8) == -1 && errno == EFAULT);
    printf("%d", stat((void *) 8, &found) == -1 && errno == EFAULT);
    printf("%d", fstat(-1, &found) == -1 && errno == EBADF);
    printf("%d", stat("", &found) == -1 && errno == ENOENT);
    printf("%d\n", syscall(SYS_statx, 0, "", 0x8000, 0, &found) == -1 && errno == EINVAL);
    return 0;
}
"#;

#[test]
fn hostile_programs_get_right_answers_and_end() {
    let stage = Stage::new();
    stage.write("hostile.c", HOSTILE);
    stage.sh("gcc -w -O1 -pthread -static -no-pie -o hostile hostile.c; chmod 755 hostile");
    let bind = format!("{}:/hostile:ro", stage.path("hostile").display());
    let mut command = stage.overcoat(Who::SingleId);
    command.arg("run").args(["--bind", &bind]).arg(stage.debian());
    let text = finish(command.args(["--", "/hostile"])).ok().text();
    let mut lines = vec!["race 0", "threads 0 right 7 -1", "killed"];
    if cfg!(target_arch = "x86_64") {
        let missing = text.contains("i386 missing");
        lines.push(if missing { "i386 missing" } else { "i386 7 7 65534 0 640 0 42 -1" });
    }
    lines.extend(["limit 0 0", "ring -1 1", "11111"]);
    assert_eq!(text.lines().collect::<Vec<_>>(), lines);
}

#[test]
fn processes_in_calls_end_with_the_command() {
    let stage = Stage::new();
    let script = "cat >/f.py <<'END'
import os
for _ in range(30):
    if os.fork() == 0:
        open('/run/started', 'a').write('x')
        while True:
            if os.fork() == 0: os.stat('/etc/shadow'); os._exit(os.getuid())
            os.wait()
END
python3 /f.py
until [ \"$(cat /run/started)\" = xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx ]; do :; done
stat -c %g /etc/shadow";
    assert_eq!(run(&stage, Who::SingleId, script).ok().text(), "42\n");
}

/// Hides the subordinate ids of all users.
const NO_IDS: &str = "echo >ids; mount --bind ids /etc/subuid; mount --bind ids /etc/subgid";

#[test]
fn user_without_subordinate_ids_builds_and_is_told_why_once() {
    let stage = Stage::new();
    stage.sh(NO_IDS);
    let finished = run(&stage, Who::Unprivileged, "chown 5 /srv; stat -c %u /srv").ok();
    assert_eq!(finished.text(), "5\n");
    let text = "working without subordinate ids: no subordinate ids for user overcoat-test";
    assert_eq!(finished.stderr.matches(text).count(), 1, "{}", finished.stderr);
    assert!(finished.stderr.contains("usermod --add-subuids"), "{}", finished.stderr);
    let quiet = run(&stage, Who::SingleId, "true").ok();
    assert_eq!(quiet.stderr, "");
    let mut command = stage.overcoat(Who::Unprivileged);
    command.args(["run", "--privilege", "subordinate"]).arg(stage.debian());
    finish(command.args(["--", "true"])).code(2).stderr_has(&["/etc/subuid"]);
}

#[test]
fn subordinate_ids_of_another_source_are_used() {
    let stage = Stage::new();
    stage.write("bin/getsubids", "#!/bin/sh\nfor user; do :; done; echo 0: $user 100000 60000\n");
    stage.sh("echo subid: sss >conf; mount --bind conf /etc/nsswitch.conf");
    let mut command = stage.overcoat(Who::Unprivileged);
    let path = format!("{}:{}", stage.path("bin").display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).args(["-v", "run", "--privilege", "subordinate"]);
    let script = "cat /proc/self/uid_map";
    let printed = finish(command.arg(stage.debian()).args(["--", "sh", "-c", script])).ok().text();
    assert!(printed.contains("100000      60000"), "{printed}");
}

/// As mmdebstrap in its mode `root`: makes files of other users and devices, mounts, prints a tar.
const BOOTSTRAP: &str = r#"#!/bin/sh
set -e
cd "$TMPDIR"
mkdir -p root/etc root/dev root/usr/bin pts
echo x >root/etc/file; chown 5:42 root/etc/file; chmod 4750 root/etc/file
mknod root/usr/device b 8 1
mount -t devpts none pts -o noexec,nosuid,uid=5,mode=620,ptmxmode=666; [ -e pts/ptmx ]; umount pts
chroot root true 2>/dev/null || [ $? = 127 ]
tar --numeric-owner --sort=name -c -C root .
"#;

#[test]
fn base_is_bootstrapped_with_the_owners_of_its_packages() {
    let stage = Stage::new();
    stage.write("bin/mmdebstrap", BOOTSTRAP);
    let image = stage.write("base.yml", "kind: base\nrelease: bookworm\nprovisioner: p\n");
    stage.write("p/files/etc/motd", "hello");
    stage.write("p/provisioner.yml", "files: files\n");
    let output = stage.out(Who::SingleId).join("base.tar");
    let mut command = stage.overcoat(Who::SingleId);
    let path = format!("{}:{}", stage.path("bin").display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).arg("build").arg(image).arg("-o").arg(&output);
    finish(&mut command).ok();
    let listed = stage.sh(&format!("tar --numeric-owner -tvf '{}'", output.display()));
    for line in ["-rwsr-x--- 5/42", "brw-r--r-- 0/0             8,1"] {
        assert!(listed.contains(line), "{listed}");
    }
}
