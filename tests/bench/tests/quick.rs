//! The benchmark itself, for a moment and on few subscribers: that it runs, and that nothing is lost, repeated or out of
//! order. Nothing here looks at how long anything took.

use std::process::Command;

fn bench(arguments: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tidings-bench"))
        .args(arguments.split(' '))
        .output()
        .expect("the benchmark can be started");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn nothing_is_lost_repeated_or_reordered_in_a_quick_run() {
    let said = bench(
        "--strict --seconds 0.5 --linger 0 --many 500 --server floor --server tidings --case steady1k \
         --case steady1k-tls --case steady1k-http2 --case connect-es256 --case topics --case turnover --case resume",
    );
    for row in ["CPU per delivery, 1,000 × 50/s", "lost, 4 publishers during turnover", "lost, 10,000 resume"] {
        assert!(said.lines().any(|line| line.starts_with(&format!("| {row}"))), "{row} is missing:\n{said}");
    }
}
