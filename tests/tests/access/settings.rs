//! Changed settings and keys, and those with a fault.

use serde_json::json;
use tidings_tests::token::{Draft, TokenKey};
use tidings_tests::wait::{PATIENCE, eventually};

use crate::house::{House, OTHER, TICKETS, token_channel};

#[tokio::test]
async fn settings_with_a_fault_change_nothing_and_keys_in_files_are_followed() {
    let house = House::open().await;
    let channel = house.site.channel(token_channel("orders", json!(["all"]))).await;
    house.set_text("issuers: [{ name: main }]\n");
    let refused = || async {
        house.site.gateways[0].metrics().await.sum_where("tidings_settings_changes_total", &["change=\"refused\""])
    };
    eventually(PATIENCE, "the fault is noticed", || async { refused().await == 1.0 }).await;
    assert_eq!(house.get(&channel, &house.ann()).await, 200);
    let output = house.site.gateways[0].process().output();
    assert!(output.contains("line 1"), "{output}");
    house.set("");

    let (next, ticket) = (TokenKey::es256("o2"), b"another secret of thirty-two bytes");
    std::fs::write(house.file("other.json"), json!({"keys": [next.jwk()]}).to_string()).expect("written");
    std::fs::write(house.file("tickets.key"), ticket).expect("written");
    let (new, old) = (next.sign(&Draft::new(OTHER, "x")), house.other.sign(&Draft::new(OTHER, "x")));
    let new_ticket = TokenKey::shared(ticket).sign(&Draft::new(TICKETS, "x"));
    let old_ticket = house.tickets.sign(&Draft::new(TICKETS, "x"));
    for (new, old) in [(new, old), (new_ticket, old_ticket)] {
        eventually(PATIENCE, "the new key counts", || async { house.get(&channel, &new).await == 200 }).await;
        assert_eq!(house.get(&channel, &old).await, 401, "and the old one no longer");
    }
}

#[tokio::test]
async fn a_gateway_does_not_start_with_settings_that_it_does_not_understand() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("settings.yaml");
    std::fs::write(&file, "issuers: []\nlimts: {}\n").expect("written");
    let gateway = tidings_tests::process::Program::built("tidings-gateway").args([
        "--listen=127.0.0.1:0",
        "--admin=127.0.0.1:0",
        "--routes=.",
        &format!("--config={}", file.display()),
    ]);
    let (status, output) = gateway.run().await;
    assert!(!status.success());
    assert!(
        output.contains("settings.yaml") && output.contains("unknown field `limts`") && output.contains("line 2"),
        "{output}"
    );
}
