//! The steps that create groups and users with the root's useradd, groupadd, usermod and groupmod.
//!
//! Existing users and groups are changed where they differ from the step and otherwise left
//! unchanged, so a step may be repeated. A new user without a hash has no valid password.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::{StepContext, StepError, find_program};
use crate::config::error::Mistake;
use crate::config::{Fields, YamlNode, YamlValue, nearest};
use crate::evaluate::WHEN_KEY;
use crate::machine::{Attributes, Command, Machine, MachineError, Meta, Node as Object, Time};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
const SHADOW: &str = "/etc/shadow";

/// Groups to create.
#[derive(Debug, Clone)]
pub(crate) struct Groups(Vec<Group>);

#[derive(Debug, Clone)]
struct Group {
    name: String,
    gid: Option<u32>,
    system: bool,
}

/// Users to create.
#[derive(Debug, Clone)]
pub(crate) struct Users(Vec<User>);

#[derive(Debug, Clone)]
struct User {
    name: String,
    uid: Option<u32>,
    /// The primary group, by name or number.
    group: Option<String>,
    /// The supplementary groups, by name or number.
    groups: Option<Vec<String>>,
    home: Option<PathBuf>,
    shell: Option<PathBuf>,
    comment: Option<String>,
    system: bool,
    create_home: Option<bool>,
    password_hash: Option<String>,
    authorized_keys: Option<Vec<String>>,
}

impl Groups {
    /// Returns the highest id that the groups name; 0 if they name none.
    pub(crate) fn highest_id(&self) -> u32 {
        self.0.iter().filter_map(|group| group.gid).max().unwrap_or(0)
    }

    /// Reads a list of names, or of `{name: …, gid: …}`.
    pub(crate) fn parse(node: &YamlNode) -> Result<Self, Box<Mistake>> {
        let group = |node: &YamlNode| {
            let YamlValue::Map(_) = node.value else {
                return Ok(Group { name: name(node, "group")?, gid: None, system: false });
            };
            let fields = Fields::new(node, "a group")?;
            let group = Group {
                name: name(fields.require("name", "write `{name: staff, gid: 2000}`")?, "group")?,
                gid: fields.get("gid").map(|node| number(node, "group")).transpose()?,
                system: fields.bool("system")?.unwrap_or(false),
            };
            fields.get(WHEN_KEY);
            fields.finish()?;
            Ok(group)
        };
        Ok(Self(node.list()?.iter().map(group).collect::<Result<_, Box<Mistake>>>()?))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn name(&self) -> String {
        format!("groups ({})", self.0.len())
    }

    pub(crate) fn run(&self, context: &mut StepContext<'_>) -> Result<(), StepError> {
        for group in &self.0 {
            let known = AccountTable::read(context.machine, GROUP)?;
            let mut arguments = Arguments::default();
            arguments.option("--gid", group.gid);
            match known.row(&group.name) {
                None => {
                    arguments.flag("--system", group.system);
                    arguments.run(context, "groupadd", &group.name)?;
                }
                Some(row) if group.gid.is_some_and(|gid| row.get(2) != Some(&gid.to_string())) => {
                    arguments.run(context, "groupmod", &group.name)?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

impl Users {
    /// Returns the highest id that the users name; 0 if they name none.
    pub(crate) fn highest_id(&self) -> u32 {
        let group = |user: &User| user.group.as_deref().and_then(|group| group.parse().ok());
        self.0.iter().filter_map(|user| user.uid.max(group(user))).max().unwrap_or(0)
    }

    /// Reads a list of names, or of mappings with the keys of a user.
    pub(crate) fn parse(node: &YamlNode) -> Result<Self, Box<Mistake>> {
        Ok(Self(node.list()?.iter().map(User::parse).collect::<Result<_, _>>()?))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn name(&self) -> String {
        format!("users ({})", self.0.len())
    }

    pub(crate) fn run(&self, context: &mut StepContext<'_>) -> Result<(), StepError> {
        self.0.iter().try_for_each(|user| user.run(context))
    }
}

impl User {
    fn parse(node: &YamlNode) -> Result<Self, Box<Mistake>> {
        // A name is short for a mapping with only a name.
        let alone;
        let node = if let YamlValue::Map(_) = node.value {
            node
        } else {
            let key = crate::config::yaml::YamlKey { name: "name".to_owned(), span: node.span };
            alone = node.with_value(YamlValue::Map(vec![(key, node.clone())]));
            &alone
        };
        let fields = Fields::new(node, "a user")?;
        let user = Self {
            name: name(fields.require("name", "write `{name: alice, uid: 1000}`")?, "user")?,
            uid: fields.get("uid").map(|node| number(node, "user")).transpose()?,
            group: fields.get("group").map(group).transpose()?,
            groups: fields.get("groups").map(|n| list(n, group)).transpose()?,
            home: fields.get("home").map(absolute).transpose()?,
            shell: fields.get("shell").map(absolute).transpose()?,
            comment: fields.get("comment").map(comment).transpose()?,
            system: fields.bool("system")?.unwrap_or(false),
            create_home: fields.bool("create_home")?,
            password_hash: fields.get("password_hash").map(hash).transpose()?,
            authorized_keys: fields
                .get("authorized_keys")
                .map(|node| Ok::<_, Box<Mistake>>(list(node, keys)?.concat()))
                .transpose()?,
        };
        fields.get(WHEN_KEY);
        fields.finish()?;
        Ok(user)
    }

    fn run(&self, context: &mut StepContext<'_>) -> Result<(), StepError> {
        let groups = AccountTable::read(context.machine, GROUP)?;
        for group in self.group.iter().chain(self.groups.iter().flatten()) {
            groups.check(group, &self.name)?;
        }
        match AccountTable::read(context.machine, PASSWD)?.row(&self.name) {
            None => self.create(context, &groups)?,
            Some(row) => self.change(context, row, &groups)?,
        }
        let passwd = AccountTable::read(context.machine, PASSWD)?;
        let row = passwd.row(&self.name).unwrap_or_default();
        let id = |index: usize| row.get(index).and_then(|id| id.parse().ok());
        let (Some(uid), Some(gid), Some(home)) = (id(2), id(3), row.get(5)) else {
            let problem = format!("{PASSWD} has no user `{}` after useradd", self.name);
            return Err(StepError::Impossible(problem));
        };
        let owner = Owner { uid, gid, time: context.options.source_date_epoch };
        let home = Path::new(home);
        if self.create_home == Some(true) && context.machine.stat(home)?.is_none() {
            context.machine.put(home, Object::Directory, &owner.meta(0o755))?;
        }
        match &self.authorized_keys {
            Some(keys) => self.write_authorized_keys(context.machine, keys, home, &owner),
            None => Ok(()),
        }
    }

    fn create(
        &self,
        context: &mut StepContext<'_>,
        groups: &AccountTable,
    ) -> Result<(), StepError> {
        // lastlog and faillog are not part of an image.
        let mut arguments = Arguments(vec!["--no-log-init".into()]);
        arguments.option("--uid", self.uid);
        match &self.group {
            Some(group) => arguments.option("--gid", Some(group)),
            None if groups.row(&self.name).is_some() => {
                arguments.option("--gid", Some(&self.name));
            }
            None => arguments.flag("--user-group", true),
        }
        self.add_common_options(&mut arguments);
        arguments.option("--home-dir", self.home.as_deref());
        arguments.flag("--system", self.system);
        let create_home = self.create_home.unwrap_or(!self.system);
        arguments.flag(if create_home { "--create-home" } else { "--no-create-home" }, true);
        arguments.run(context, "useradd", &self.name)
    }

    /// Adds the options that useradd and usermod have in common.
    fn add_common_options(&self, arguments: &mut Arguments) {
        arguments.option("--groups", self.groups.as_ref().map(|groups| groups.join(",")));
        arguments.option("--shell", self.shell.as_deref());
        arguments.option("--comment", self.comment.as_deref());
        arguments.option("--password", self.password_hash.as_deref());
    }

    /// Runs usermod with the options that differ from the existing user, if there are any.
    fn change(
        &self,
        context: &mut StepContext<'_>,
        row: &[String],
        groups: &AccountTable,
    ) -> Result<(), StepError> {
        let shadow = AccountTable::read(context.machine, SHADOW)?;
        let hash = shadow.row(&self.name).and_then(|row| row.get(1)).map(String::as_str);
        let field = |index: usize| row.get(index).map(String::as_str);
        let path = |path: &Option<PathBuf>, index| {
            path.clone().filter(|path| field(index).map(Path::new) != Some(path.as_path()))
        };
        let wanted = |group: &String| groups.number(group).as_deref() != field(3);
        let member = |groups_of: &Vec<String>| {
            let wanted: BTreeSet<&str> = groups_of.iter().map(|g| groups.name_of(g)).collect();
            wanted != groups.with_member(&self.name)
        };
        let changed = Self {
            uid: self.uid.filter(|uid| field(2) != Some(&uid.to_string())),
            group: self.group.clone().filter(wanted),
            groups: self.groups.clone().filter(member),
            home: path(&self.home, 5),
            shell: path(&self.shell, 6),
            comment: self.comment.clone().filter(|text| field(4) != Some(text)),
            password_hash: self.password_hash.clone().filter(|wanted| hash != Some(wanted)),
            ..self.clone()
        };
        let mut arguments = Arguments::default();
        arguments.option("--uid", changed.uid);
        arguments.option("--gid", changed.group.as_ref());
        arguments.option("--home", changed.home.as_deref());
        changed.add_common_options(&mut arguments);
        if arguments.0.is_empty() {
            return Ok(());
        }
        arguments.run(context, "usermod", &self.name)
    }

    /// Writes `authorized_keys`, replacing existing keys.
    fn write_authorized_keys(
        &self,
        machine: &mut dyn Machine,
        keys: &[String],
        home: &Path,
        owner: &Owner,
    ) -> Result<(), StepError> {
        if machine.stat(home)?.is_none() {
            return Err(StepError::Impossible(format!(
                "the user `{}` has no {} for its authorized_keys; write `create_home: true`",
                self.name,
                home.display()
            )));
        }
        let folder = home.join(".ssh");
        machine.put(&folder, Object::Directory, &owner.meta(0o700))?;
        let to = Attributes { mode: Some(0o700), uid: Some(owner.uid), gid: Some(owner.gid) };
        machine.set_attributes(&folder, &to)?;
        let text: String = keys.iter().map(|key| format!("{key}\n")).collect();
        let file = folder.join("authorized_keys");
        Ok(machine.put(&file, Object::File(&mut text.as_bytes()), &owner.meta(0o600))?)
    }
}

/// Owner and modification time of files that are created for a user.
struct Owner {
    uid: u32,
    gid: u32,
    time: Option<i64>,
}

impl Owner {
    fn meta(&self, mode: u32) -> Meta {
        let mtime = self.time.map(|seconds| Time { seconds, nanoseconds: 0 });
        Meta { mode: Some(mode), uid: self.uid, gid: self.gid, mtime }
    }
}

/// Arguments of useradd, usermod, groupadd or groupmod.
#[derive(Default)]
struct Arguments(Vec<std::ffi::OsString>);

impl Arguments {
    fn option(&mut self, name: &str, value: Option<impl ToArgument>) {
        if let Some(value) = value {
            self.0.push(name.into());
            self.0.push(value.to_argument());
        }
    }

    fn flag(&mut self, name: &str, on: bool) {
        self.0.extend(on.then(|| name.into()));
    }

    fn run(self, context: &mut StepContext<'_>, tool: &str, name: &str) -> Result<(), StepError> {
        let Some(path) = find_program(context.machine, tool)? else {
            return Err(StepError::Impossible(format!(
                "the image has no {tool}: install the package passwd first"
            )));
        };
        let command = Command::new(path).args(self.0).arg("--").arg(name);
        context.command(&format!("{tool} {name}"), &command.env("LC_ALL", "C.UTF-8"))
    }
}

/// A value that can be passed as an argument.
trait ToArgument {
    fn to_argument(&self) -> std::ffi::OsString;
}

impl ToArgument for u32 {
    fn to_argument(&self) -> std::ffi::OsString {
        self.to_string().into()
    }
}

impl<T: AsRef<OsStr> + ?Sized> ToArgument for &T {
    fn to_argument(&self) -> std::ffi::OsString {
        AsRef::<OsStr>::as_ref(*self).to_owned()
    }
}

impl ToArgument for String {
    fn to_argument(&self) -> std::ffi::OsString {
        self.into()
    }
}

/// The lines of a file such as /etc/passwd, split at colons.
struct AccountTable(Vec<Vec<String>>);

impl AccountTable {
    fn read(machine: &dyn Machine, path: &str) -> Result<Self, MachineError> {
        let content = machine.read(Path::new(path))?.unwrap_or_default();
        let lines = String::from_utf8_lossy(&content).into_owned();
        Ok(Self(lines.lines().map(|l| l.split(':').map(str::to_owned).collect()).collect()))
    }

    fn row(&self, name: &str) -> Option<&[String]> {
        self.0.iter().find(|row| row.first().is_some_and(|n| n == name)).map(Vec::as_slice)
    }

    /// Returns the number of a group given by name or number.
    fn number(&self, group: &str) -> Option<String> {
        match self.row(group) {
            Some(row) => row.get(2).cloned(),
            None => group.parse::<u32>().ok().map(|number| number.to_string()),
        }
    }

    /// Returns the name of a group given by name or number.
    fn name_of<'a>(&'a self, group: &'a str) -> &'a str {
        if self.row(group).is_some() {
            return group;
        }
        let row = self.0.iter().find(|row| row.get(2).is_some_and(|gid| gid == group));
        row.and_then(|row| row.first()).map_or(group, String::as_str)
    }

    /// Returns the supplementary groups of a user.
    fn with_member(&self, user: &str) -> BTreeSet<&str> {
        let has = |row: &&Vec<String>| row.get(3).is_some_and(|m| m.split(',').any(|m| m == user));
        self.0.iter().filter(has).filter_map(|row| row.first()).map(String::as_str).collect()
    }

    /// Checks that a group of a user exists.
    fn check(&self, group: &str, user: &str) -> Result<(), StepError> {
        let known = |row: &Vec<String>| row.iter().take(3).step_by(2).any(|field| field == group);
        if self.0.iter().any(known) {
            return Ok(());
        }
        let names = self.0.iter().filter_map(|row| row.first()).map(String::as_str);
        let help = match nearest(group, names) {
            Some(name) => format!("did you mean `{name}`?"),
            None => "create it with `groups` first".to_owned(),
        };
        Err(StepError::Impossible(format!(
            "the image has no group `{group}` for the user `{user}`; {help}"
        )))
    }
}

fn list<T>(
    node: &YamlNode,
    parse: impl Fn(&YamlNode) -> Result<T, Box<Mistake>>,
) -> Result<Vec<T>, Box<Mistake>> {
    node.list()?.iter().map(parse).collect()
}

/// Reads a name that useradd and groupadd accept.
fn name(node: &YamlNode, what: &str) -> Result<String, Box<Mistake>> {
    let text = node.text(&format!("the name of a {what}"))?;
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let other = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if text.starts_with(first) && text.chars().all(other) && text.len() <= 32 {
        return Ok(text.to_owned());
    }
    Err(node.mistake_with_help(
        format!("invalid {what} name `{text}`"),
        "a name begins with a letter and has up to 32 letters, digits, `-`, `_` and `.`",
    ))
}

/// Reads the number of a user or group. The maximum value is reserved and rejected.
fn number(node: &YamlNode, what: &str) -> Result<u32, Box<Mistake>> {
    let text = node.text(&format!("the number of a {what}"))?;
    text.parse().ok().filter(|number| *number < u32::MAX).ok_or_else(|| {
        node.mistake_with_help(
            format!("invalid {what} number `{text}`"),
            "write a number such as `1000`",
        )
    })
}

/// Reads a group, by name or number.
fn group(node: &YamlNode) -> Result<String, Box<Mistake>> {
    let text = node.text("the name of a group")?;
    if text.parse::<u32>().is_ok() { Ok(text.to_owned()) } else { name(node, "group") }
}

fn absolute(node: &YamlNode) -> Result<PathBuf, Box<Mistake>> {
    let text = node.text("a path")?;
    if text.starts_with('/') && !text.contains([':', '\n']) {
        return Ok(text.into());
    }
    Err(node.mistake_with_help(format!("invalid path `{text}`"), "write an absolute path"))
}

fn comment(node: &YamlNode) -> Result<String, Box<Mistake>> {
    let text = node.text("a comment")?;
    if text.contains([':', '\n']) {
        return Err(node.mistake("a comment must be one line without colons"));
    }
    Ok(text.to_owned())
}

/// Reads the hash of a password, or `*` or `!` for no valid password.
fn hash(node: &YamlNode) -> Result<String, Box<Mistake>> {
    let text = node.text("the hash of a password")?;
    let hash = text.trim_start_matches('!');
    let valid = hash.is_empty() || hash == "*" || (hash.starts_with('$') && hash.len() > 12);
    if valid && !text.contains([':', '\n', ' ']) {
        return Ok(text.to_owned());
    }
    let help = "create a hash with `openssl passwd -6` or `mkpasswd`; everyone who can read the \
                image can read it";
    Err(node.mistake_with_help("not the hash of a password", help))
}

/// Reads public keys, one per line.
fn keys(node: &YamlNode) -> Result<Vec<String>, Box<Mistake>> {
    let text = node.text("a public key")?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let key = |line: &str| {
        let mut words = line.split_whitespace();
        let kind = words.find(|w| ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| w.starts_with(kind)));
        if kind.is_some() && words.next().is_some_and(|word| word.starts_with("AAAA")) {
            return Ok(line.to_owned());
        }
        let help = "write a line as in ~/.ssh/id_ed25519.pub: `ssh-ed25519 AAAA… name`";
        Err(node.mistake_with_help("not a public key", help))
    };
    lines.map(key).collect()
}
