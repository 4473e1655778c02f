//! The programs that tests run on an engine, defined once for each engine.

use serde_json::{Value, json};

use crate::servers::BUSYBOX;

/// An engine that tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestEngine {
    /// The fake engine.
    Fake,
    /// The machine's Docker Engine.
    Docker,
    /// A cluster on the machine.
    Kubernetes,
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
    /// Print "hello" and "wörld" on standard output, "oops" on standard error, and exit with code 3.
    PrintAndExit3,
    /// Run until stopped, and end at TERM.
    Sleep,
    /// Run, and ignore TERM.
    IgnoreTerm,
    /// Print so many numbered lines, a few milliseconds apart, and exit with code 0.
    Count(u32),
    /// Serve HTTP on port 8080.
    Serve,
    /// Use more memory than allowed.
    OutOfMemory,
    /// An image that does not exist.
    MissingImage,
    /// A command that does not exist.
    MissingCommand,
    /// Exit with this code, and write nothing.
    Exit(u8),
    /// Write these bytes to standard output.
    Write(Vec<u8>),
    /// Print the value of a variable of the environment.
    Variable(&'static str),
    /// Append the line "kept" to this file, and print the file; fail if that is not possible. The fake has no files and
    /// prints the line.
    AppendAndShow(&'static str),
    /// Print this file.
    Show(&'static str),
}

impl TestEngine {
    /// Returns the engine's name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fake => "fake",
            Self::Docker => "docker",
            Self::Kubernetes => "k8s",
        }
    }

    /// Returns the name and the value of the variable that configures the engine.
    pub const fn variable(self) -> (&'static str, &'static str) {
        match self {
            Self::Fake => ("DEPLOYER_ENGINE_FAKE", "fake://"),
            Self::Docker => ("DEPLOYER_ENGINE_DOCKER", "docker:///var/run/docker.sock"),
            Self::Kubernetes => ("DEPLOYER_ENGINE_K8S", "k8s://"),
        }
    }

    /// Returns whether the engine reports which of the two streams an entry was written to.
    pub const fn tells_streams(self) -> bool {
        !matches!(self, Self::Kubernetes)
    }

    /// Returns whether the engine keeps a carriage return before a line end. containerd does not.
    pub const fn keeps_carriage_returns(self) -> bool {
        !matches!(self, Self::Kubernetes)
    }

    /// Returns whether the engine pulls images before it creates an object, and runs the object by the time that the
    /// start returns. Other engines report this progress in the object's state.
    pub const fn starts_at_once(self) -> bool {
        !matches!(self, Self::Kubernetes)
    }

    /// Returns whether the engine's containers have files.
    pub const fn has_files(self) -> bool {
        matches!(self, Self::Docker | Self::Kubernetes)
    }

    /// Returns the specification of `script`.
    pub fn specification(self, script: &Script) -> Value {
        match self {
            Self::Docker | Self::Kubernetes => shell(script),
            Self::Fake => fake(script),
        }
    }
}

fn shell(script: &Script) -> Value {
    let shell = |script: &str| json!({ "image": BUSYBOX, "command": ["sh", "-c", script] });
    match script {
        Script::PrintAndExit3 => shell("echo hello; echo wörld; echo oops >&2; exit 3"),
        Script::Sleep => shell("trap 'exit 143' TERM; echo started; while :; do sleep 0.1; done"),
        Script::IgnoreTerm => shell("trap '' TERM; echo started; while :; do sleep 0.1; done"),
        Script::Count(lines) => {
            shell(&format!("i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo line $i; sleep 0.02; done"))
        }
        Script::Serve => {
            let serve = "mkdir /www; echo served > /www/index.html; exec httpd -f -p 8080 -h /www";
            json!({ "image": BUSYBOX, "command": ["sh", "-c", serve], "ports": ["8080"] })
        }
        Script::OutOfMemory => json!({
            "image": BUSYBOX,
            // containerd begins to listen for this event when the command runs already; it misses an earlier one.
            "command": ["sh", "-c", "sleep 1; exec tail /dev/zero"],
            "resources": { "limits": { "memory": "16Mi" } },
        }),
        Script::MissingImage => json!({ "image": "127.0.0.1:1/no/such:image" }),
        Script::MissingCommand => json!({ "image": BUSYBOX, "command": ["no-such-command"] }),
        Script::Exit(code) => shell(&format!("exit {code}")),
        Script::Write(bytes) => {
            // Letters and digits are not escaped, because an argument has at most 128 KiB.
            let escaped = |byte: &u8| match byte {
                b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(*byte).to_string(),
                other => format!("\\{other:03o}"),
            };
            let text: String = bytes.iter().map(escaped).collect();
            shell(&format!("printf '{text}'"))
        }
        Script::Variable(name) => shell(&format!("echo \"${name}\"")),
        Script::Show(file) => shell(&format!("cat {file}")),
        Script::AppendAndShow(file) => shell(&format!("echo kept >> {file} && cat {file}")),
    }
}

fn fake(script: &Script) -> Value {
    let steps = |steps: &[&str]| json!({ "image": "fake/steps", "command": steps });
    match script {
        Script::PrintAndExit3 => steps(&["out:hello", "out:wörld", "err:oops", "exit:3"]),
        Script::Sleep => steps(&["out:started", "wait"]),
        Script::IgnoreTerm => steps(&["ignore-term", "out:started", "wait"]),
        Script::Count(lines) => steps(&[&format!("lines:{lines}")]),
        Script::Serve => json!({ "image": "fake/steps", "command": ["wait"], "ports": ["8080"] }),
        Script::OutOfMemory => steps(&["oom"]),
        Script::MissingImage => json!({ "image": "fake/missing" }),
        Script::MissingCommand => steps(&["no-such-command"]),
        Script::Exit(code) => steps(&[&format!("exit:{code}")]),
        Script::Write(bytes) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            steps(&[&format!("raw:{hex}")])
        }
        Script::Variable(name) => steps(&[&format!("env:{name}")]),
        Script::Show(_) => steps(&[]),
        Script::AppendAndShow(_) => steps(&["out:kept"]),
    }
}
