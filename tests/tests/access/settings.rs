//! Changed settings and keys, and those with a fault.

use serde_json::json;
use tidings_tests::manifest::Manifest;
use tidings_tests::token::{Draft, TokenKey};
use tidings_tests::wait::{PATIENCE, eventually};

use crate::house::{House, OTHER, TICKETS, get, token_channel};

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

fn tickets(house: &House) -> String {
    let (now, before) = (house.file("tickets.key"), house.file("before.key"));
    format!(
        "issuers: [{{ name: tickets, issuer: {TICKETS}, audience: tidings, algorithms: [HS256], \
         secret: {{ file: '{}', previousFile: '{}' }} }}]\n",
        now.display(),
        before.display()
    )
}

#[tokio::test]
async fn a_secret_that_is_replaced_while_the_previous_file_is_away_counts_at_once_and_ends_the_old_one() {
    let house = House::open().await;
    let channel = house.site.channel(token_channel("orders", json!(["all"]))).await;
    let secrets: Vec<&[u8]> = vec![
        b"the first secret of thirty-two bytes",
        b"the second secret of thirty-two byte",
        b"the third secret of thirty-two bytes",
    ];
    let of = |number: usize| TokenKey::shared(secrets[number]).sign(&Draft::new(TICKETS, "x"));
    let write = |name: &str, number: usize| std::fs::write(house.file(name), secrets[number]).expect("written");
    write("before.key", 0);
    write("tickets.key", 1);
    house.set_text(&tickets(&house));
    for number in [0, 1] {
        eventually(PATIENCE, "both secrets count", || async { house.get(&channel, &of(number)).await == 200 }).await;
    }
    std::fs::remove_file(house.file("before.key")).expect("removed");
    write("tickets.key", 2);
    eventually(PATIENCE, "the new secret counts", || async { opens(&house, &channel, &of(2)).await }).await;
    // It may be in the file that is away.
    assert!(!opens(&house, &channel, &of(1)).await);
    write("before.key", 1);
    eventually(PATIENCE, "the one before it counts", || async { opens(&house, &channel, &of(1)).await }).await;
    assert_eq!(house.get(&channel, &of(0)).await, 401, "and the one before that no longer");
    std::fs::remove_file(house.file("before.key")).expect("removed");
    eventually(PATIENCE, "what is taken away no longer counts", || async { house.get(&channel, &of(1)).await == 401 })
        .await;
    assert!(opens(&house, &channel, &of(2)).await);
}

/// Whether there is a stream, and not only an answer that says when to come back.
async fn opens(house: &House, channel: &Manifest, token: &str) -> bool {
    let request = get(house.url(channel, &[])).header("authorization", format!("Bearer {token}"));
    let opened = request.open().await.expect("an answer");
    assert!([200, 401].contains(&opened.status().as_u16()), "{}", opened.status());
    opened.status() == 200 && !opened.headers().contains_key("content-length")
}

#[tokio::test]
async fn while_keys_cannot_be_read_clients_are_sent_away_to_come_back_however_often_they_are_looked_at() {
    let house = House::open().await;
    let channel = house.site.channel(token_channel("orders", json!(["all"]))).await;
    let keys = house.file("broken.json");
    std::fs::write(&keys, "{ \"keys\": [").expect("written");
    house.set_text(&format!(
        "issuers: [{{ name: other, issuer: {OTHER}, audience: tidings, algorithms: [ES256], jwks: {{ file: '{}' }} }}]\n",
        keys.display()
    ));
    let token = house.other.sign(&Draft::new(OTHER, "x"));
    let failed = || async {
        house.site.gateways[0].metrics().await.sum_where("tidings_issuer_key_reads_total", &["outcome=\"failed\""])
    };
    eventually(PATIENCE, "the fault is noticed", || async { failed().await >= 1.0 }).await;
    for look in 2..6 {
        eventually(PATIENCE, "the next look", || async { failed().await >= f64::from(look) }).await;
        let get = get(house.url(&channel, &[])).header("authorization", format!("Bearer {token}"));
        let reply = get.send().await;
        assert!(reply.status == 200 && reply.text().starts_with("retry: "), "{} {}", reply.status, reply.text());
    }
    std::fs::write(&keys, json!({"keys": [house.other.jwk()]}).to_string()).expect("written");
    eventually(PATIENCE, "the keys count", || async { opens(&house, &channel, &token).await }).await;
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
