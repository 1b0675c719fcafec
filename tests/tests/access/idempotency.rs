//! An `Idempotency-Key` belongs to who uses it.

use serde_json::json;
use tidings_tests::token::Draft;
use tidings_tests::web::Request;

use crate::house::{House, MAIN, token_channel};

#[tokio::test]
async fn nobody_makes_the_publication_of_another_vanish_with_its_key() {
    let house = House::open().await;
    let channel = house.site.channel(token_channel("orders", json!(["all", "user.{sub}"]))).await;
    let post = async |subject: &str, topic: &str| {
        let token = house.keys.sign(&Draft::new(MAIN, subject));
        let request = Request::post(house.url(&channel, &[("topic", topic)]), format!("{subject} to {topic}"))
            .header("authorization", format!("Bearer {token}"))
            .header("idempotency-key", "order-1");
        let reply = request.send().await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        reply.json()["duplicate"] == true
    };
    // The same topic, and topics of their own.
    for (subject, topic, duplicate) in [
        ("mallory", "all", false),
        ("alice", "all", false),
        ("alice", "user.alice", false),
        ("alice", "all", true),
        ("mallory", "all", true),
        ("alice", "user.alice", true),
    ] {
        assert_eq!(post(subject, topic).await, duplicate, "{subject} to {topic}");
    }
    assert_eq!(house.site.publisher(&channel).await.state().await.messages, 3);
}
