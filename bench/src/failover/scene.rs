//! What a scene consists of: a fault, a rate, a protocol, a kind of key, and who is measured.
//!
//! Values only. [`Fault::script`] says what happens when; [`Selection`] which scenes there are.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::rivals::Rival;

/// Where a replica of the service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Tier {
    Local,
    Cloud,
}

impl Tier {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cloud => "cloud",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        [Self::Local, Self::Cloud].into_iter().find(|tier| tier.name() == name)
    }
}

/// How a replica treats calls. Health is always well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Behaviour {
    Well,
    /// 503 to every call, which is not executed.
    Unavailable,
    /// Executes at once and answers two seconds later.
    Slow,
    /// Executes and resets the connection.
    ResetAfterRead,
    /// Executes, answers the first half and resets the connection.
    ResetMidBody,
    /// Takes no connection and ends those it has.
    Closed,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fault {
    /// The local replica is killed, and started again later.
    Kill,
    /// The local replica is stopped in its tracks: it accepts and never answers.
    Freeze,
    /// The cloud is preferred, and the line swallows every packet.
    LineCut,
    /// The local replica answers 503 to every call; its health says yes.
    #[value(name = "503")]
    #[serde(rename = "503")]
    Unavailable,
    /// The local replica is frozen and well in turns of a second.
    Flap,
    /// The local replica takes two seconds for an answer.
    Slow,
    /// The local replica resets connections after it has read and executed a call.
    ResetAfterRead,
    /// The local replica resets connections in the middle of its answers.
    ResetMidBody,
    /// The local replica refuses connections for 30 s.
    Refuse,
    /// Both replicas are killed; the one in the cloud returns first.
    BothDown,
    /// The cloud is known by a name. First nobody resolves names any more, then the local replica
    /// is killed.
    DnsGone,
    /// Power fails in the store: proxy and local replica start again together.
    Reboot,
    /// The local replica is killed and soon back, and it is watched how traffic returns to it.
    Return,
}

/// Something that is done to the scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Kill(Tier),
    Start(Tier),
    Freeze,
    Thaw,
    Behave(Behaviour),
    CutLine,
    MendLine,
    StopNames,
    PowerCut,
    PowerOn,
}

/// Before the fault: for health checks to agree, connections to open and latencies to be known.
pub(super) const SETTLE_SECONDS: f64 = 5.0;
/// How long a fault lasts that ends by itself and has no length of its own.
pub(super) const LASTS_SECONDS: f64 = 8.0;
/// How long connections are refused.
const REFUSED_SECONDS: f64 = 30.0;
/// One turn of flapping.
const FLAP_SECONDS: f64 = 1.0;
/// How often the replica freezes while it flaps.
const FLAPS: u32 = 10;
/// The dwell and the ramp of the defaults, a shift by the store's name, and time to see it.
const RETURN_SECONDS: f64 = 56.0;
/// Calls after everything is well again.
const AFTER_SECONDS: f64 = 4.0;
/// In [`Fault::BothDown`]: when the replica in the cloud is back.
pub(super) const CLOUD_BACK_SECONDS: f64 = 4.0;

impl Fault {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What is done when, in seconds. What tills may notice begins at 0; the scene has settled for
    /// [`SETTLE_SECONDS`] by then.
    pub(super) fn script(self, lasts: f64) -> Vec<(f64, Step)> {
        let local = |behaviour| {
            vec![(0.0, Step::Behave(behaviour)), (lasts, Step::Behave(Behaviour::Well))]
        };
        match self {
            Self::Kill => vec![(0.0, Step::Kill(Tier::Local)), (lasts, Step::Start(Tier::Local))],
            Self::Freeze => vec![(0.0, Step::Freeze), (lasts, Step::Thaw)],
            Self::LineCut => vec![(0.0, Step::CutLine), (lasts, Step::MendLine)],
            Self::Unavailable => local(Behaviour::Unavailable),
            Self::Flap => (0..FLAPS)
                .map(|turn| 2.0 * FLAP_SECONDS * f64::from(turn))
                .flat_map(|at| [(at, Step::Freeze), (at + FLAP_SECONDS, Step::Thaw)])
                .collect(),
            Self::Slow => local(Behaviour::Slow),
            Self::ResetAfterRead => local(Behaviour::ResetAfterRead),
            Self::ResetMidBody => local(Behaviour::ResetMidBody),
            Self::Refuse => vec![
                (0.0, Step::Behave(Behaviour::Closed)),
                (REFUSED_SECONDS, Step::Behave(Behaviour::Well)),
            ],
            Self::BothDown => vec![
                (0.0, Step::Kill(Tier::Local)),
                (0.0, Step::Kill(Tier::Cloud)),
                (CLOUD_BACK_SECONDS, Step::Start(Tier::Cloud)),
                (CLOUD_BACK_SECONDS + 4.0, Step::Start(Tier::Local)),
            ],
            Self::DnsGone => vec![
                // So early that the proxy has asked again and got no answer.
                (-4.0, Step::StopNames),
                (0.0, Step::Kill(Tier::Local)),
                (lasts, Step::Start(Tier::Local)),
            ],
            Self::Reboot => vec![(0.0, Step::PowerCut), (0.5, Step::PowerOn)],
            Self::Return => {
                vec![(0.0, Step::Kill(Tier::Local)), (3.0, Step::Start(Tier::Local))]
            }
        }
    }

    /// From the beginning of the fault to the last call.
    pub(super) fn watched_seconds(self, lasts: f64) -> f64 {
        let last = self.script(lasts).last().map_or(0.0, |(at, _)| *at);
        if self == Self::Return { RETURN_SECONDS } else { last + AFTER_SECONDS }
    }

    pub(super) const fn preferred(self) -> Tier {
        if matches!(self, Self::LineCut) { Tier::Cloud } else { Tier::Local }
    }

    /// Measured with all protocols and both rates, and with a key of one backend.
    const fn is_thorough(self) -> bool {
        matches!(self, Self::Kill | Self::Freeze | Self::LineCut)
    }

    /// Measured with the rivals when nothing else is asked for.
    const fn is_common(self) -> bool {
        self.is_thorough() || matches!(self, Self::Unavailable | Self::Flap)
    }
}

/// Whether calls carry a key, and what the route says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Keying {
    /// No key.
    None,
    /// A key, remembered inside one backend.
    Backend,
    /// A key that both replicas know.
    AllBackends,
}

impl Keying {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::None => "no key",
            Self::Backend => "key, one backend",
            Self::AllBackends => "key",
        }
    }

    pub(super) const fn is_keyed(self) -> bool {
        !matches!(self, Self::None)
    }
}

/// What clients and replicas speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Protocol {
    H1,
    /// With prior knowledge.
    H2,
    Grpc,
}

impl Protocol {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::H1 => "h1",
            Self::H2 => "h2",
            Self::Grpc => "gRPC",
        }
    }
}

/// Who stands between the store and the replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Contender {
    Tillgate,
    Envoy,
    Haproxy,
    Nginx,
}

impl Contender {
    const ALL: [Self; 4] = [Self::Tillgate, Self::Envoy, Self::Haproxy, Self::Nginx];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tillgate => "Tillgate",
            Self::Envoy => "Envoy",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
        }
    }

    pub(super) const fn rival(self) -> Option<Rival> {
        match self {
            Self::Tillgate => None,
            Self::Envoy => Some(Rival::Envoy),
            Self::Haproxy => Some(Rival::Haproxy(100)),
            Self::Nginx => Some(Rival::Nginx),
        }
    }

    /// Whether it can be put into such a scene. Rivals know no scope of a key, and the lab
    /// configures them for HTTP/1.1 and addresses.
    const fn can(self, fault: Fault, protocol: Protocol, keying: Keying) -> bool {
        match self {
            Self::Tillgate => true,
            Self::Envoy | Self::Haproxy | Self::Nginx => {
                matches!(protocol, Protocol::H1)
                    && !matches!(keying, Keying::Backend)
                    && !matches!(fault, Fault::DnsGone)
            }
        }
    }
}

/// One scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Scene {
    pub(super) fault: Fault,
    pub(super) rate: u32,
    pub(super) protocol: Protocol,
    pub(super) keying: Keying,
    pub(super) contender: Contender,
}

impl std::fmt::Display for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rate, fault) = (self.rate, self.fault.name());
        let (protocol, key) = (self.protocol.name(), self.keying.name());
        let text = format!("{fault}, {rate}/s {protocol}, {key}, {}", self.contender.name());
        f.pad(&text)
    }
}

/// What was asked for; what is empty is chosen by the lab.
#[derive(Debug, Clone, Default)]
pub(super) struct Selection {
    pub(super) faults: Vec<Fault>,
    pub(super) rates: Vec<u32>,
    pub(super) protocols: Vec<Protocol>,
    pub(super) keys: Vec<Keying>,
    pub(super) contenders: Vec<Contender>,
    /// The common faults, Tillgate alone.
    pub(super) quick: bool,
}

/// Payments of a busy store.
const RATE: u32 = 25;
/// Payments of a store as nobody has it yet.
const HIGH_RATE: u32 = 200;

impl Selection {
    /// The scenes, those of one fault together.
    pub(super) fn scenes(&self) -> Vec<Scene> {
        let mut scenes = Vec::new();
        for fault in self.faults() {
            for (rate, protocol) in self.loads(fault) {
                for keying in self.keys(fault, rate, protocol) {
                    for contender in self.contenders(fault, rate) {
                        if contender.can(fault, protocol, keying) {
                            scenes.push(Scene { fault, rate, protocol, keying, contender });
                        }
                    }
                }
            }
        }
        scenes
    }

    fn faults(&self) -> Vec<Fault> {
        let chosen = |fault: &Fault| {
            let common = self.faults.is_empty() && (!self.quick || fault.is_common());
            common || self.faults.contains(fault)
        };
        Fault::value_variants().iter().copied().filter(chosen).collect()
    }

    fn loads(&self, fault: Fault) -> Vec<(u32, Protocol)> {
        if self.rates.is_empty() && self.protocols.is_empty() {
            let more = [(HIGH_RATE, Protocol::H1), (RATE, Protocol::H2), (RATE, Protocol::Grpc)];
            let thorough = fault.is_thorough() && !self.quick;
            let more = more.into_iter().filter(|_| thorough);
            return std::iter::once((RATE, Protocol::H1)).chain(more).collect();
        }
        let rates = or_one(&self.rates, RATE);
        let protocols = or_one(&self.protocols, Protocol::H1);
        rates.iter().flat_map(|rate| protocols.iter().map(|one| (*rate, *one))).collect()
    }

    fn keys(&self, fault: Fault, rate: u32, protocol: Protocol) -> Vec<Keying> {
        if !self.keys.is_empty() {
            return self.keys.clone();
        }
        let plain = rate == RATE && protocol == Protocol::H1 && !self.quick;
        let scope = (plain && fault.is_common() && fault != Fault::Flap).then_some(Keying::Backend);
        let key = (fault != Fault::Return).then_some(Keying::AllBackends);
        std::iter::once(Keying::None).chain(key).chain(scope).collect()
    }

    fn contenders(&self, fault: Fault, rate: u32) -> Vec<Contender> {
        if !self.contenders.is_empty() {
            return self.contenders.clone();
        }
        let rivals = fault.is_common() && rate == RATE && !self.quick;
        let count = if rivals { Contender::ALL.len() } else { 1 };
        Contender::ALL[..count].to_vec()
    }
}

fn or_one<T: Copy>(asked: &[T], otherwise: T) -> Vec<T> {
    if asked.is_empty() { vec![otherwise] } else { asked.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_starts_at_once_and_leaves_all_well() {
        for fault in Fault::value_variants() {
            let script = fault.script(LASTS_SECONDS);
            assert!(script.iter().any(|(at, _)| *at == 0.0), "{fault:?}");
            assert!(script[0].0 > -SETTLE_SECONDS, "{fault:?}");
            assert!(script.is_sorted_by_key(|(at, _)| *at), "{fault:?}");
            let has = |step: Step| script.iter().filter(|(_, one)| *one == step).count();
            assert_eq!(has(Step::Freeze), has(Step::Thaw), "{fault:?}");
            assert_eq!(has(Step::CutLine), has(Step::MendLine), "{fault:?}");
            assert_eq!(has(Step::PowerCut), has(Step::PowerOn), "{fault:?}");
            for tier in [Tier::Local, Tier::Cloud] {
                assert_eq!(has(Step::Kill(tier)), has(Step::Start(tier)), "{fault:?}");
            }
            let mut behaves = script.iter().filter(|(_, step)| matches!(step, Step::Behave(_)));
            let last = behaves.next_back().map(|(_, step)| *step);
            assert!(matches!(last, None | Some(Step::Behave(Behaviour::Well))), "{fault:?}");
            assert!(fault.watched_seconds(LASTS_SECONDS) > script.last().unwrap().0);
        }
    }

    #[test]
    fn the_whole_selection_holds_what_the_requirements_name() {
        let scenes = Selection::default().scenes();
        let has = |fault, rate, protocol, keying, contender| {
            scenes.contains(&Scene { fault, rate, protocol, keying, contender })
        };
        let tillgate = Contender::Tillgate;
        for fault in Fault::value_variants() {
            assert!(has(*fault, 25, Protocol::H1, Keying::None, tillgate), "{fault:?}");
        }
        for fault in [Fault::Kill, Fault::Freeze, Fault::LineCut] {
            for keying in [Keying::None, Keying::AllBackends] {
                assert!(has(fault, 200, Protocol::H1, keying, tillgate), "{fault:?}");
                assert!(has(fault, 25, Protocol::H2, keying, tillgate), "{fault:?}");
                assert!(has(fault, 25, Protocol::Grpc, keying, tillgate), "{fault:?}");
            }
            assert!(has(fault, 25, Protocol::H1, Keying::Backend, tillgate), "{fault:?}");
            assert!(has(fault, 25, Protocol::H1, Keying::None, Contender::Envoy), "{fault:?}");
        }
        let odd = |scene: &&Scene| {
            scene.contender != tillgate
                && (scene.protocol != Protocol::H1 || scene.keying == Keying::Backend)
        };
        assert_eq!(scenes.iter().find(odd), None);
    }

    #[test]
    fn what_is_asked_for_is_crossed() {
        let selection = Selection {
            faults: vec![Fault::Slow],
            rates: vec![50, 100],
            protocols: vec![Protocol::Grpc],
            keys: vec![Keying::None],
            contenders: vec![Contender::Tillgate, Contender::Nginx],
            quick: false,
        };
        let scenes = selection.scenes();
        assert_eq!(scenes.len(), 2, "{scenes:?}");
        assert_eq!(scenes[1].to_string(), "slow, 100/s gRPC, no key, Tillgate");
        let quick = Selection { quick: true, ..Selection::default() }.scenes();
        assert_eq!(quick.len(), 10, "{quick:?}");
    }
}
