//! The tasks of an Ansible role, from the output of `ansible-playbook`.

use std::time::{Duration, Instant};

use crate::machine::Log;

/// Starts of the lines with which Ansible announces a task: `TASK [role : name] ****`.
const ANNOUNCEMENTS: [&str; 2] = ["TASK [", "RUNNING HANDLER ["];
/// Start of the line after the last task.
const RECAP: &str = "PLAY RECAP ";
/// Number of slowest tasks that are written to the log.
const SLOWEST_TASKS: usize = 5;
/// Tasks that are faster than this are not among the slowest.
const FAST_TASK: Duration = Duration::from_secs(1);
/// Maximum length of a line that is searched, in bytes.
const MAX_LINE_BYTES: usize = 4096;

/// Passes on the output of `ansible-playbook`, and reports the tasks in it.
pub(super) struct TaskLog<'a> {
    inner: &'a mut dyn Log,
    line: Vec<u8>,
    running: Option<(String, Instant)>,
    ended: Vec<(String, Duration)>,
}

impl<'a> TaskLog<'a> {
    pub(super) fn new(inner: &'a mut dyn Log) -> Self {
        TaskLog { inner, line: Vec::new(), running: None, ended: Vec::new() }
    }

    /// Ends the last task. If the role succeeded, writes the slowest tasks to the log.
    pub(super) fn finish(mut self, succeeded: bool) {
        self.end_task();
        self.ended.retain(|(_, took)| *took >= FAST_TASK);
        self.ended.sort_by(|(_, a), (_, b)| b.cmp(a));
        if !succeeded || self.ended.is_empty() {
            return;
        }
        let mut text = "slowest tasks:\n".to_owned();
        for (name, took) in self.ended.iter().take(SLOWEST_TASKS) {
            text.push_str(&format!("{:>8.1} s  {name}\n", took.as_secs_f64()));
        }
        self.inner.output(text.as_bytes());
    }

    fn end_task(&mut self) {
        if let Some((name, start)) = self.running.take() {
            let took = start.elapsed();
            self.inner.task_ended(&name, took);
            self.ended.push((name, took));
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        let rest = ANNOUNCEMENTS.iter().find_map(|start| line.strip_prefix(start));
        if rest.is_some() || line.starts_with(RECAP) {
            self.end_task();
        }
        if let Some((name, _)) = rest.and_then(|rest| rest.rsplit_once(']')) {
            let name = without_path(name);
            self.inner.task_started(&name);
            self.running = Some((name, Instant::now()));
        }
    }
}

/// Returns the name of a task with the name of its role. Ansible prints a role's path if the play
/// names the role by its path.
fn without_path(task: &str) -> String {
    match task.split_once(" : ") {
        Some((role, name)) => {
            format!("{} : {name}", role.rsplit('/').next().unwrap_or_default())
        }
        None => task.to_owned(),
    }
}

impl Log for TaskLog<'_> {
    fn output(&mut self, bytes: &[u8]) {
        self.inner.output(bytes);
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                _ if self.line.len() < MAX_LINE_BYTES => self.line.push(byte),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Events(Vec<String>);

    impl Log for Events {
        fn output(&mut self, bytes: &[u8]) {
            self.0.push(String::from_utf8_lossy(bytes).into_owned());
        }
        fn task_started(&mut self, name: &str) {
            self.0.push(format!("started {name}"));
        }
        fn task_ended(&mut self, name: &str, _: Duration) {
            self.0.push(format!("ended {name}"));
        }
    }

    #[test]
    fn tasks_are_found_in_the_output() {
        let output = "\nPLAY [demo] ***\n\nTASK [/roles/demo : a [b] file] ***\nchanged: [root]\n\n\
                      RUNNING HANDLER [demo : record] ***\nTASK [unfinished\nPLAY RECAP ***\n";
        let mut events = Events::default();
        let mut log = TaskLog::new(&mut events);
        output.as_bytes().chunks(3).for_each(|part| log.output(part));
        log.finish(true);
        events.0.retain(|event| event.starts_with("started ") || event.starts_with("ended "));
        assert_eq!(
            events.0,
            [
                "started demo : a [b] file",
                "ended demo : a [b] file",
                "started demo : record",
                "ended demo : record",
            ]
        );
    }

    #[test]
    fn slowest_tasks_of_a_successful_role_are_in_its_log() {
        let slowest = |succeeded| {
            let mut events = Events::default();
            let mut log = TaskLog::new(&mut events);
            let seconds = [3, 0, 9].map(|n| (format!("task {n}"), Duration::from_secs(n)));
            log.ended = seconds.to_vec();
            log.finish(succeeded);
            events.0.concat()
        };
        assert_eq!(slowest(true), "slowest tasks:\n     9.0 s  task 9\n     3.0 s  task 3\n");
        assert_eq!(slowest(false), "");
    }
}
