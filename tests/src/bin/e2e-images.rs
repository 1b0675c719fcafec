//! Packs every image that the end-to-end tests run, and prints name and archive of each, as `scripts/images.sh` does.

use std::io::Write;

use anyhow::Result;
use tidings_tests::chart_images::ChartImages;

#[tokio::main]
async fn main() -> Result<()> {
    let mut out = std::io::stdout();
    for (name, archive) in ChartImages::packed().await? {
        writeln!(out, "{name} {}", archive.display())?;
    }
    Ok(())
}
