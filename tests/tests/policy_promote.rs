//! `tillgate promote` asks a Prometheus: what it needs to hear, and that nothing less will do.

use std::fs;
use std::sync::{Arc, Mutex};

use tillgate::cli::ask;
use tillgate_tests::chain::Chain;
use tillgate_tests::origin::Origin;
use tillgate_tests::program::policy;
use tillgate_tests::tls::{self, Authority, Volume, Wants};
use tillgate_tests::wire::Wire;

/// What the server says next, and what it was asked last.
#[derive(Default)]
struct Talk {
    answer: String,
    asked: (String, String, Option<String>),
}

type Said = Arc<Mutex<Talk>>;

fn serve(mut wire: Wire, said: &Said) {
    while wire.waits_for_more() {
        let question = wire.reply();
        let mut said = said.lock().expect("no panic");
        let token = question.header("authorization").map(str::to_owned);
        said.asked = (question.line.clone(), question.text(), token);
        wire.send(&said.answer);
    }
}

fn json(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

fn vector(values: &[&str]) -> String {
    let series = values.iter().map(|value| format!(r#"{{"metric":{{}},"value":[1,"{value}"]}}"#));
    let series: Vec<String> = series.collect();
    let result = series.join(",");
    json(&format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{result}]}}}}"#))
}

/// A bundle of long ago, and what `promote` says of it with these further words.
struct Promotion {
    chain: Chain,
    file: String,
    made: Vec<u8>,
}

impl Promotion {
    fn new(name: &str) -> Self {
        let (chain, origin) = (Chain::new(name), "127.0.0.1:1".parse().expect("an address"));
        let made = ["--created-at", "2026-01-01T00:00:00Z"];
        let made = chain.bundle(8, &policy("a.example", origin), "ci", &made);
        let file = chain.folder.join("made.tar.gz").display().to_string();
        Self { chain, file, made }
    }

    /// The exit code, and what is said; `None` = the words make no sense.
    fn try_ask(&self, more: &[&str]) -> Option<(u8, String)> {
        let key = self.chain.folder.join("release.pem").display().to_string();
        let fixed = ["tillgate", "promote", &self.file, "--through", "broad", "--key", &key];
        let words = fixed.iter().chain(&["--key-id", "release"]).chain(more);
        let answer = ask(words.map(Into::into))?;
        Some((answer.code, answer.stdout + &answer.stderr))
    }

    fn ask(&self, more: &[&str]) -> (u8, String) {
        self.try_ask(more).expect("words that make sense")
    }

    fn is_signed(&self) -> bool {
        fs::read(&self.file).expect("it is there") != self.made
    }
}

#[test]
fn only_a_low_number_is_signed_and_whatever_is_less_than_that_is_told() {
    let promotion = Promotion::new("prometheus");
    let said = Said::default();
    let server = Origin::start({
        let said = Arc::clone(&said);
        move |wire, _| serve(wire, &said)
    });
    let url = format!("http://{}/metrics/", server.address);
    let query = "max(errors{ring=\"lab\"})";
    let words = ["--prometheus", &url, "--query", query, "--at-most", "0.01", "--bake", "1h"];
    let error = r#"{"status":"error","errorType":"bad_data","error":"parse error: no"}"#;
    let partial = r#"{"status":"success","warnings":["store 3 is silent"],
        "data":{"resultType":"scalar","result":[1,"0"]}}"#;
    for (answer, part) in [
        (vector(&["0.001", "0.02"]), "fails: the metric is 0.02, and 0.01 is allowed"),
        (vector(&["0.001", "NaN"]), "inconclusive: the metric has no value"),
        (vector(&[]), "inconclusive: the metric has no value"),
        (json(error), "inconclusive: Prometheus does not answer the query: parse error"),
        (json(partial), "inconclusive: Prometheus answers with a warning: store 3 is silent"),
        (json("<html>"), "something else than JSON"),
        ("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".into(), "answers 503"),
        ("nonsense".into(), "inconclusive"),
    ] {
        said.lock().unwrap().answer = answer;
        let (code, text) = promotion.ask(&words);
        assert_eq!(code, 1, "{part}: {text}");
        assert!(text.contains(part), "{part}: {text}");
        assert!(!promotion.is_signed(), "{part}");
    }
    said.lock().unwrap().answer = vector(&["0.001", "0.002"]);
    let (code, text) = promotion.ask(&[&words[..6], &["--bake", "99999h"]].concat());
    assert!(code == 1 && text.contains("has to bake for"), "{text}");

    let (code, text) = promotion.ask(&words);
    assert_eq!(code, 0, "{text}");
    let evidence = format!("pass: {query} is 0.002, 0.01 allowed; for ");
    assert!(text.contains(&evidence), "{text}");
    assert!(promotion.is_signed());
    let asked = said.lock().unwrap().asked.clone();
    assert_eq!(asked.0, "POST /metrics/api/v1/query HTTP/1.1");
    assert_eq!(asked.1, "query=max%28errors%7Bring%3D%22lab%22%7D%29");

    drop(server);
    let (code, text) = promotion.ask(&words);
    assert!(code == 1 && text.contains("inconclusive"), "nobody there: {text}");
    for wrong in [&words[..4], &words[2..6], &["--at-most", "1"]] {
        assert!(promotion.try_ask(wrong).is_none(), "{wrong:?}");
    }
}

#[test]
fn over_tls_the_server_must_prove_who_it_is() {
    let promotion = Promotion::new("prometheus-tls");
    let authority = Authority::default();
    let identity = authority.issue(&["localhost"]);
    let wants = Wants { identity: Some(&identity), ..Wants::default() };
    let config = tls::server(&wants, None);
    let said = Said::default();
    said.lock().unwrap().answer = vector(&["0"]);
    let server = Origin::start({
        let said = Arc::clone(&said);
        move |wire, _| {
            if let Some(wire) = tls::accept(wire, &config) {
                serve(wire, &said);
            }
        }
    });
    let files = Volume::new(&[("ca.pem", &authority.pem), ("token", "abc\n")]);
    let [ca, token] = ["ca.pem", "token"].map(|name| files.path(name).display().to_string());
    let url = format!("https://localhost:{}", server.address.port());
    let words = ["--prometheus", &url, "--query", "up", "--at-most", "1", "--bake", "1h"];
    let (code, text) = promotion.ask(&words);
    assert!(code == 1 && text.contains("--prometheus-ca"), "nobody knows it: {text}");
    let known = ["--prometheus-ca", &ca, "--prometheus-token-file", &token];
    let (code, text) = promotion.ask(&[&words[..], &known].concat());
    assert_eq!(code, 0, "{text}");
    assert_eq!(said.lock().unwrap().asked.2.as_deref(), Some("Bearer abc"));
}
