//! What an operator has: reloads that forget nothing, the access log, gauges.

use tillgate_tests::eventually;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::moody::Moody;

use super::scene::{Scene, call, compiled, policy};

#[test]
fn a_reload_keeps_what_is_known() {
    let mut scene = Scene::new("");
    scene.local.kill();
    let till = scene.till(false);
    scene.wait_for_tier(1);
    till.wait(3);
    let changed =
        policy(scene.local.address, scene.cloud.address, "      rateLimits: [{requests: 10000}]\n");
    scene.gateway.control.reload(compiled(&changed)).expect("a good config");
    till.wait(5);
    assert!(scene.status().contains("\"activeTier\":1"), "{}", scene.status());
    drop(till.end());
}

#[test]
fn the_access_log_names_every_try() {
    let telemetry = |path: &str| {
        format!(
            "---\napiVersion: tillgate.dev/v1alpha1\nkind: TelemetryPolicy\nmetadata: {{name: \
             all}}\nspec:\n  accessLogOutput: {{path: {path}}}\n  accessLogging:\n    - \
             {{trafficClasses: \
             [\"*\"], sampling: 100%}}\n"
        )
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let (mut local, cloud) = (Moody::start("local"), Moody::start("cloud"));
    let text = policy(local.address, cloud.address, "") + &telemetry(&path.display().to_string());
    // The call finds out by itself.
    let text = text.replace("interval: 200ms", "interval: 1h");
    let gateway = Gateway::start(compiled(&text));
    local.kill();
    assert!(call(gateway.http, 4_000_000, false).text.starts_with("cloud"));
    let line = eventually("the line is written", || {
        std::fs::read_to_string(&path).ok().filter(|text| text.contains("earlier_tries"))
    });
    assert!(line.contains("\"earlier_tries\":\"pricing-local 127.0.0.1:"), "{line}");
    assert!(line.contains("connect_refused\""), "{line}");
}

#[test]
fn an_endpoint_that_a_reload_removes_has_no_gauge() {
    let scene = Scene::new("");
    let gauge = |server: &Moody| format!("endpoint=\"{}\"}} 1", server.address);
    let shows = |server: &Moody| scene.gateway.admin("/metrics").text().contains(&gauge(server));
    assert!(shows(&scene.local));
    let other = Moody::start("other");
    let changed = policy(other.address, scene.cloud.address, "");
    scene.gateway.control.reload(compiled(&changed)).expect("a good config");
    assert!(shows(&other) && shows(&scene.cloud) && !shows(&scene.local));
}
