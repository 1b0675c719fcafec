//! A new version, a new field of Channels, and back again, while everybody listens.

use anyhow::{Result, ensure};
use serde_json::json;
use tidings_tests::chart_images::NEXT;
use tidings_tests::chart_release::ChartRelease;
use tidings_tests::chart_site::Site;
use tidings_tests::crowd::Tally;
use tidings_tests::publisher::Publisher;
use tidings_tests::wait::eventually;

use crate::wait_ready;
use crate::{
    Doors, PATIENCE, age_definition, complete, open_channel, publish_numbers, ready_gateways, revision, tally,
};

/// Who is subscribed while releases change.
const SUBSCRIBERS: usize = 2_000;

/// Two upgrades and the way back between them.
///
/// The later version is the same programs in an image of another tag and label, and a chart of another version: what is
/// shown is the change of every pod, not that other programs understand each other. The earlier definition is made by
/// taking a field out of this one.
pub(crate) async fn upgrades_and_rolls_back(site: &Site, release: &ChartRelease<'_>, doors: &Doors) -> Result<()> {
    let numbers = open_channel(site, "demo", "numbers", "tidings").await?;
    // From a pod, through the Service, by its name.
    let url = format!("{}{}", release.within(), numbers.path());
    let crowd = json!({"image": site.images.visitor(), "args": ["crowd", url, SUBSCRIBERS.to_string()]});
    site.start_pod("demo", "crowd", crowd, json!({})).await?;
    everybody_is_subscribed(site).await;
    let jetstream = release.jetstream(&doors.nats).await?;
    let (stop, publishing) = publish_numbers(Publisher::new(&jetstream, &numbers), 5);

    let current = age_definition(site).await?;
    release.upgrade(&[]).await?;
    assert_eq!(revision(site).await?, current, "the hook brings the definition up to the new version");
    moved(site, 1, NEXT).await?;
    let newer = numbers.clone().with("limits/connectsPerSecond", 7_777);
    site.kubectl.run_with(&["apply", "-f", "-"], &newer.to_string()).await?;

    release.rollback(1).await?;
    assert_eq!(revision(site).await?, current, "no rollback touches the definition");
    moved(site, 2, env!("CARGO_PKG_VERSION")).await?;
    wait_ready(site, "demo").await?;
    // The status is written by the older version too; what it does not know stays.
    let again = newer.with("limits/connections", 10_000);
    site.kubectl.run_with(&["apply", "-f", "-"], &again.to_string()).await?;
    wait_ready(site, "demo").await?;
    release.upgrade(&[]).await?;
    moved(site, 3, NEXT).await?;
    let kept = site.get("tch numbers -n demo").await?;
    assert_eq!(kept["spec"]["limits"]["connectsPerSecond"], 7_777);

    let _ = stop.send(());
    complete(site, "demo", "crowd", publishing.await?).await?;
    site.kubectl("delete pod crowd -n demo --wait=false").await?;
    Ok(())
}

/// Waits until every client has its stream. Something has to be published meanwhile: who comes back to where it was is told no
/// position before the next event.
async fn everybody_is_subscribed(site: &Site) -> Tally {
    eventually(PATIENCE, "everybody is subscribed", || async {
        let tally = tally(site, "demo", "crowd").await.map_err(|error| format!("{error:#}"))?;
        if tally.open == SUBSCRIBERS { Ok(tally) } else { Err(format!("{tally:?}")) }
    })
    .await
}

/// Waits until the gateways of before have left and everybody has come to those of this version, `times` by now.
async fn moved(site: &Site, times: usize, version: &str) -> Result<()> {
    eventually(PATIENCE, "the gateways of before have left", || async {
        let pods = site.get("pods -n tidings-system -l app.kubernetes.io/component=gateway").await.ok()?;
        (pods["items"].as_array()?.len() == 2).then_some(())
    })
    .await;
    assert_eq!(versions(site).await?, [version; 2]);
    let tally = everybody_is_subscribed(site).await;
    // A client that never had to come back saw nothing of it.
    ensure!(tally.opened >= (1 + times) * SUBSCRIBERS, "{tally:?}");
    Ok(())
}

/// The versions that the gateways' labels tell.
async fn versions(site: &Site) -> Result<Vec<String>> {
    let gateways = ready_gateways(site, "tidings-system").await?;
    let label =
        |pod: &serde_json::Value| pod["metadata"]["labels"]["app.kubernetes.io/version"].as_str().map(str::to_owned);
    Ok(gateways.iter().filter_map(label).collect())
}
