//! Real processes: spawned in a group of their own, killed like the power going off, never left behind.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::timeout;

/// Lines of output that are kept, for messages.
const LINES_KEPT: usize = 400;
/// How long the output of an ended process may take to arrive; somebody it started may hold it open.
const OUTPUT_DEADLINE: Duration = Duration::from_secs(1);
/// How long threads may take to notice SIGSTOP.
const PAUSE_DEADLINE: Duration = Duration::from_secs(1);

/// A running program. Its whole process group gets SIGKILL when this is dropped.
pub struct Child {
    name: String,
    child: tokio::process::Child,
    group: Pid,
    output: Output,
}

#[derive(Clone)]
struct Output {
    lines: Arc<Mutex<Lines>>,
    grown: watch::Sender<()>,
}

#[derive(Default)]
struct Lines {
    stdout: Vec<String>,
    last: VecDeque<String>,
    open: usize,
}

impl Child {
    /// Spawns `program` with `args` and, on top of ours, these variables. It has no standard input.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn spawn<A: AsRef<OsStr>>(
        program: impl AsRef<Path>,
        args: impl IntoIterator<Item = A>,
        variables: &[(&str, &str)],
    ) -> Self {
        crate::tls::install_provider();
        let program = program.as_ref();
        let mut command = Command::new(program);
        command
            .args(args)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|fault| panic!("can't start {}: {fault}", program.display()));
        let group =
            child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).expect("a process that was just spawned has an id");
        let output = Output { lines: Arc::new(Mutex::new(Lines { open: 2, ..Lines::default() })), grown: watch::Sender::new(()) };
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(output.clone().collect(stdout, true));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(output.clone().collect(stderr, false));
        }
        let name = program.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Self { name, child, group, output }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.group.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits for a line on standard output that `wanted` takes, and gives what it made of it. Earlier lines count.
    ///
    /// # Panics
    /// When the deadline passes or the output ends first; the panic shows the last lines.
    pub async fn line<T>(&mut self, deadline: Duration, what: &str, mut wanted: impl FnMut(&str) -> Option<T>) -> T {
        let mut grown = self.output.grown.subscribe();
        let mut next = 0;
        let search = async {
            loop {
                grown.mark_unchanged();
                let open = {
                    let lines = self.output.lock();
                    while let Some(line) = lines.stdout.get(next) {
                        next += 1;
                        if let Some(found) = wanted(line) {
                            return Some(found);
                        }
                    }
                    lines.open
                };
                if open == 0 || grown.changed().await.is_err() {
                    return None;
                }
            }
        };
        match timeout(deadline, search).await {
            Ok(Some(found)) => found,
            Ok(None) => panic!("{} ended without: {what}\n{}", self.name, self.output()),
            Err(_) => panic!("{} did not say within {deadline:?}: {what}\n{}", self.name, self.output()),
        }
    }

    /// SIGKILL to the whole group, and waits until it is gone.
    ///
    /// # Panics
    /// When the system does not say how it ended.
    pub async fn kill_9(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().await.expect("the end of a child");
        self.output.complete().await;
    }

    /// SIGTERM to the whole group; [`Child::wait`] tells how it ends.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP: it stands still, its sockets stay open. Returns when each of its threads has stopped.
    ///
    /// # Panics
    /// When they have not stopped within a second.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let started = Instant::now();
        // A process that waits in the kernel for a stopped child (vfork) stops when that child goes on.
        while !self.stands_still(started.elapsed() > PAUSE_DEADLINE / 5) {
            assert!(started.elapsed() < PAUSE_DEADLINE, "{} runs on after SIGSTOP", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether every thread is in the state `T`, or `D` where that counts, or the process is gone.
    fn stands_still(&self, waiting_counts: bool) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.id())) else {
            return true;
        };
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The name before the state may hold anything, also brackets.
            let state = stat.rsplit(") ").next().unwrap_or_default();
            state.is_empty() || state.starts_with(['T', 'Z', 'X']) || (waiting_counts && state.starts_with('D'))
        })
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits for its end and for the rest of its output.
    ///
    /// # Panics
    /// When the deadline passes; the panic shows the last lines.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let Ok(status) = timeout(deadline, self.child.wait()).await else {
            let last = self.output();
            panic!("{} did not end within {deadline:?}\n{last}", self.name);
        };
        self.output.complete().await;
        status.expect("the end of a child")
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// All lines of standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        self.output.lock().stdout.clone()
    }

    /// The last lines of both outputs.
    pub fn output(&self) -> String {
        let lines = self.output.lock();
        lines.last.iter().map(|line| format!("{line}\n")).collect()
    }

    fn signal(&self, signal: Signal) {
        // A child that was waited for has given its id back; its group must not be signalled any more.
        if self.child.id().is_some() {
            // An empty group is what we want.
            let _ = kill_process_group(self.group, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if std::thread::panicking() {
            eprintln!("--- last lines of {}\n{}", self.name, self.output());
        }
    }
}

impl Output {
    async fn collect(self, from: impl AsyncRead + Unpin, stdout: bool) {
        let mut reader = BufReader::new(from).lines();
        while let Ok(Some(line)) = reader.next_line().await {
            let mut lines = self.lock();
            if lines.last.len() == LINES_KEPT {
                lines.last.pop_front();
            }
            lines.last.push_back(line.clone());
            if stdout {
                lines.stdout.push(line);
            }
            drop(lines);
            self.grown.send_replace(());
        }
        self.lock().open -= 1;
        self.grown.send_replace(());
    }

    /// Waits until both outputs have ended.
    async fn complete(&self) {
        let mut grown = self.grown.subscribe();
        let ended = async {
            while self.lock().open > 0 {
                // The sender is in `self`.
                let _ = grown.changed().await;
            }
        };
        let _ = timeout(OUTPUT_DEADLINE, ended).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
