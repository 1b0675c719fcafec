//! Two releases of one name, in two namespaces, with two classes.

use anyhow::{Context, Result, ensure};
use tidings_tests::chart_release::ChartRelease;
use tidings_tests::chart_site::Site;
use tidings_tests::manifest::Manifest;
use tidings_tests::web::Request;

use crate::{Doors, age_definition, open_channel, revision, subscribe, told, wait_ready};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "part of make e2e: needs root and containerd, or a cluster of one's own"]
async fn two_releases_of_one_name_do_not_notice_each_other() -> Result<()> {
    let site = Site::start(1).await?;
    told(&site, side_by_side(&site)).await
}

async fn side_by_side(site: &Site) -> Result<()> {
    let mut releases = Vec::new();
    for class in ["a", "b"] {
        site.restricted_namespace(class).await?;
        let class_name = format!("--set=className={class}");
        releases.push(site.install("tidings", class, &[&class_name, "--set=gateway.replicas=1"]).await?.0);
        site.namespace(&format!("shop-{class}")).await?;
    }
    let ours = open_channel(site, "shop-a", "orders", "a").await?;
    let theirs = open_channel(site, "shop-b", "orders", "b").await?;
    let status = async |release: &ChartRelease<'_>, channel: &Manifest| -> Result<u16> {
        // Kept until the answer is there: elsewhere the door is a forwarded port.
        let doors = Doors::of(release).await?;
        let url = format!("{}{}", doors.url(), channel.path());
        Ok(Request::new(http::Method::HEAD, url).send().await.status.as_u16())
    };
    let [a, b] = <[_; 2]>::try_from(releases).ok().context("two releases")?;
    assert_eq!([status(&a, &ours).await?, status(&a, &theirs).await?], [200, 401]);
    assert_eq!([status(&b, &ours).await?, status(&b, &theirs).await?], [401, 200]);

    a.uninstall().await?;
    let current = age_definition(site).await?;
    b.upgrade(&["--set=className=b", "--set=gateway.replicas=1"]).await?;
    assert_eq!(revision(site).await?, current);
    wait_ready(site, "shop-b").await?;
    let doors = Doors::of(&b).await?;
    let mut client = subscribe(&doors.url(), &theirs).await;
    let reply = Request::post(format!("{}{}", doors.url(), theirs.path()), "still here").send().await;
    ensure!(reply.status == 201, "{}", reply.text());
    assert_eq!(client.next_event().await.data, "still here");
    b.uninstall().await
}
