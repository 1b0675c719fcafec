//! How both programs reach NATS: each kind of login, TLS, and files that are replaced while events flow.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{Auth, ConnectOptions};
use tempfile::TempDir;
use tidings_tests::event_source::EventSource;
use tidings_tests::gateway::Gateway;
use tidings_tests::installation::{Installation, Settings};
use tidings_tests::kube_authority::{Identity, KubeAuthority};
use tidings_tests::manifest::Manifest;
use tidings_tests::nats::{Nats, NatsSettings};
use tidings_tests::nats_jwt::NatsAuthority;
use tidings_tests::operator::Operator;
use tidings_tests::publisher::Publisher;
use tidings_tests::tls::TlsFolder;
use tidings_tests::wait::{PATIENCE, eventually};

/// Files for the programs' flags.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("tidings-login-").tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces a file at once, as a mounted Secret is.
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path("unfinished"), text).expect("the directory can be written");
        std::fs::rename(self.path("unfinished"), self.path(name)).expect("the directory can be written");
    }

    fn flag(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.path(name).display())
    }
}

/// Everything, with these arguments for both programs.
async fn installation(nats: NatsSettings, arguments: Vec<String>) -> Installation {
    let settings = Settings { nats, ..Settings::default() };
    Settings { gateway_arguments: arguments.clone(), operator_arguments: arguments, ..settings }.start().await
}

/// A stream under publications that go on until it is told to stop.
struct Load {
    source: EventSource,
    stop: Arc<AtomicBool>,
    publishing: tokio::task::JoinHandle<u64>,
}

impl Load {
    async fn start(site: &Installation) -> Self {
        let channel = site.channel(Manifest::public("orders")).await;
        let source = site.subscribe(0, &channel, &[]).await;
        let publisher = Publisher::new(&site.jetstream().await, &channel);
        let stop = Arc::new(AtomicBool::new(false));
        let publishing = tokio::spawn({
            let stop = stop.clone();
            async move {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    publisher.publish("a", count.to_string()).await;
                    count += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                count
            }
        });
        Self { source, stop, publishing }
    }

    /// Everything that was published has come, once and in order, on the one stream, and nothing was called lost.
    async fn complete(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let count = self.publishing.await.expect("the publisher goes on");
        let events = self.source.take(usize::try_from(count).expect("it fits")).await;
        for (n, event) in events.iter().enumerate() {
            assert_eq!((event.data.as_str(), event.event.as_str()), (n.to_string().as_str(), "message"));
        }
    }
}

/// How often the gateway's connections came up so far, and how many logins were refused.
async fn connects(site: &Installation) -> (f64, f64) {
    let metrics = site.gateways[0].metrics().await;
    let refused = metrics.sum_where("tidings_broker_errors_total", &["kind=\"login\""]);
    (metrics.sum("tidings_broker_connects_total"), refused)
}

/// Waits until NATS has let nobody in, and then somebody again.
async fn locked_out(site: &Installation) {
    eventually(PATIENCE, "the gateway is refused", || async {
        connects(site).await.1 > 0.0 && !site.gateways[0].is_ready().await
    })
    .await;
}

/// A new channel needs the operator's connection, and the gateway's.
async fn works(site: &Installation, name: &str) {
    site.gateways[0].ready().await;
    let channel = site.channel(Manifest::public(name)).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    site.publisher(&channel).await.publish("a", "x").await;
    assert_eq!(source.next_event().await.data, "x");
}

/// Neither program says any of this.
fn kept_secret(site: &Installation, secrets: &[&str]) {
    for output in [site.gateways[0].process().output(), site.operator.process().output()] {
        assert!(secrets.iter().all(|secret| !output.contains(secret)), "a secret was logged");
    }
}

/// Two versions of a login: what the server knows, and what is in the files.
async fn rotated(server: [String; 2], names: &[&str], contents: [&[&str]; 2], flags: &[&str]) {
    let files = Files::new();
    let write = |version: usize| names.iter().zip(contents[version]).for_each(|(name, text)| files.write(name, text));
    let arguments = flags.iter().zip(names).map(|(flag, name)| files.flag(flag, name)).collect();
    let options = ConnectOptions::with_user_and_password("admin".into(), "admin".into());
    write(0);
    let nats = NatsSettings { more: server[0].clone(), options, ..NatsSettings::default() };
    let site = installation(nats, arguments).await;
    let load = Load::start(&site).await;

    // The server first: who is connected is thrown out, and locked out until the files are there.
    site.nats.reload(&server[1]).await;
    locked_out(&site).await;
    write(1);
    site.gateways[0].ready().await;

    // The files first: nothing happens until the server changes, and then hardly anything.
    let (before, _) = connects(&site).await;
    write(0);
    site.nats.reload(&server[0]).await;
    eventually(PATIENCE, "the gateway is back", || async {
        connects(&site).await.0 > before && site.gateways[0].is_ready().await
    })
    .await;
    load.complete().await;
    works(&site, "later").await;
    kept_secret(&site, &contents.concat());
}

fn users(other: &str) -> String {
    format!("authorization {{ users: [ {{ user: admin, password: admin }}, {other} ] }}\n")
}

#[tokio::test]
async fn a_changed_password_is_read_from_its_file_and_costs_no_event() {
    let server = |user: &str, password: &str| users(&format!("{{ user: {user}, password: \"{password}\" }}"));
    let versions = [server("tidings", "pass-word-one"), server("tidings-two", "pass-word-two ")];
    let contents: [&[&str]; 2] = [&["tidings\n", "pass-word-one\n"], &["tidings-two", "pass-word-two \n"]];
    rotated(versions, &["user", "password"], contents, &["nats-user-file", "nats-password-file"]).await;
}

#[tokio::test]
async fn a_changed_nkey_is_read_from_its_file_and_costs_no_event() {
    let pairs = [nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user()];
    let versions = [0, 1].map(|n| users(&format!("{{ nkey: {} }}", pairs[n].public_key())));
    let seeds = [0, 1].map(|n| pairs[n].seed().expect("it has a seed"));
    rotated(versions, &["seed"], [&[&seeds[0]], &[&seeds[1]]], &["nats-nkey"]).await;
}

#[tokio::test]
async fn credentials_that_expire_are_renewed_from_their_file_and_cost_no_event() {
    let authority = NatsAuthority::new();
    let files = Files::new();
    files.write("creds", &authority.credentials("tidings", Some(Duration::from_secs(15))));
    let options = ConnectOptions::with_credentials(&authority.credentials("admin", None)).expect("credentials");
    let nats = NatsSettings { more: authority.configuration(), options, ..NatsSettings::default() };
    let site = installation(nats, vec![files.flag("nats-credentials", "creds")]).await;
    let load = Load::start(&site).await;
    locked_out(&site).await;
    let (before, _) = connects(&site).await;
    files.write("creds", &authority.credentials("tidings", Some(Duration::from_secs(10))));
    site.gateways[0].ready().await;
    // Renewed in time: the connection that ends by expiry comes back with the new ones.
    files.write("creds", &authority.credentials("tidings", None));
    eventually(PATIENCE, "the second ones have expired", || async { connects(&site).await.0 >= before + 2.0 }).await;
    site.gateways[0].ready().await;
    load.complete().await;
    works(&site, "later").await;
    kept_secret(&site, &["NKEY SEED", "eyJ0"]);
}

#[tokio::test]
async fn a_changed_token_is_read_from_its_file_and_costs_no_event() {
    let tokens = ["the-first-token-of-this-test", "and-the-second-one-after-that"];
    tokens.iter().for_each(|token| tidings_tests::evidence::made(token));
    let server = tokens.map(|token| format!("authorization {{ token: \"{token}\" }}\n"));
    // A server with a token has no other users: the test's own connections show whatever it knows by then.
    let known = Arc::new(Mutex::new(tokens[0].to_owned()));
    let options = ConnectOptions::with_auth_callback({
        let known = known.clone();
        move |_| {
            let mut auth = Auth::new();
            auth.token = Some(known.lock().expect("no holder panics").clone());
            std::future::ready(Ok(auth))
        }
    });
    let files = Files::new();
    files.write("token", &format!("{}\n", tokens[0]));
    let nats = NatsSettings { more: server[0].clone(), options, ..NatsSettings::default() };
    let site = installation(nats, vec![files.flag("nats-token-file", "token")]).await;
    let channel = site.channel(Manifest::public("orders")).await;
    let mut source = site.subscribe(0, &channel, &[]).await;
    let change = async |version: usize| {
        tokens[version].clone_into(&mut known.lock().expect("no holder panics"));
        site.nats.reload(&server[version]).await;
    };

    // The files first: the connections are ended, and come back with what is there.
    let (before, _) = connects(&site).await;
    files.write("token", tokens[1]);
    change(1).await;
    eventually(PATIENCE, "the gateway is back", || async {
        connects(&site).await.0 > before && site.gateways[0].is_ready().await
    })
    .await;
    site.publisher(&channel).await.publish("a", "after the first change").await;
    assert_eq!(source.next_event().await.data, "after the first change");

    // The server first: nobody is let in until the file is there, and what was published meanwhile is not lost.
    change(0).await;
    locked_out(&site).await;
    site.publisher(&channel).await.publish("a", "while it was locked out").await;
    files.write("token", tokens[0]);
    site.gateways[0].ready().await;
    assert_eq!(source.next_event().await.data, "while it was locked out");
    works(&site, "later").await;
    kept_secret(&site, &tokens);
}

/// A server that shows the certificate in this folder, and asks for one of this authority.
fn tls(folder: &TlsFolder) -> String {
    let path = |name: &str| folder.path(name).display().to_string();
    let (cert, key, ca) = (path("tls.crt"), path("tls.key"), path("ca.crt"));
    format!("tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}, verify: true }}\n")
}

#[tokio::test]
async fn certificates_for_nats_are_followed_on_both_sides_and_cost_no_event() {
    let authority = || KubeAuthority::new().expect("an authority");
    let [first, second] = [authority(), authority()];
    let (server, own, files) = (TlsFolder::of(&first), TlsFolder::of(&first), Files::new());
    let show = |authority: &KubeAuthority| {
        let Identity { certificate, key } = authority.client("tidings", None).expect("a certificate");
        files.write("ca", &authority.certificate());
        files.write("cert", &certificate);
        files.write("key", &key);
    };
    let show_own = |authority: &KubeAuthority| {
        let Identity { certificate, key } = authority.client("test", None).expect("a certificate");
        own.write("ca.crt", &authority.certificate());
        own.write("tls.crt", &certificate);
        own.write("tls.key", &key);
    };
    show(&second);
    show_own(&first);
    let options = ConnectOptions::new()
        .require_tls(true)
        .add_root_certificates(own.path("ca.crt"))
        .add_client_certificate(own.path("tls.crt"), own.path("tls.key"));
    let nats = NatsSettings { more: tls(&server), options, ..NatsSettings::default() };
    let arguments = [("nats-ca", "ca"), ("nats-cert", "cert"), ("nats-key", "key")];
    let arguments: Vec<String> = arguments.iter().map(|(flag, name)| files.flag(flag, name)).collect();
    let settings = Settings { nats, operator_arguments: arguments.clone(), ..Settings::default() };
    let mut site = Settings { gateway_arguments: arguments, ..settings }.start_unready().await;
    // Both trust another authority, and show a certificate of it, until the files say otherwise.
    eventually(PATIENCE, "the gateway does not get through", || async {
        let metrics = site.gateways[0].try_metrics().await?;
        (metrics.sum_where("tidings_broker_errors_total", &["kind=\"connect\""]) > 3.0).then_some(())
    })
    .await;
    assert!(!site.gateways[0].is_ready().await);
    show(&first);
    site.gateways[0].ready().await;
    let load = Load::start(&site).await;

    // Everything is signed by another authority from now on.
    server.write("ca.crt", &second.certificate());
    server.renew(&second);
    show(&second);
    show_own(&second);
    site.nats.restart().await;
    site.gateways[0].ready().await;
    load.complete().await;
    works(&site, "later").await;
}

#[tokio::test]
async fn tls_may_come_first_and_then_the_server_says_nothing_in_the_clear() {
    let authority = KubeAuthority::new().expect("an authority");
    let folder = TlsFolder::of(&authority);
    let path = |name: &str| folder.path(name).display().to_string();
    let (cert, key) = (path("tls.crt"), path("tls.key"));
    let more = format!("tls {{ cert_file: {cert:?}, key_file: {key:?}, handshake_first: true }}\n");
    let options = ConnectOptions::new().tls_first().add_root_certificates(folder.path("ca.crt"));
    let nats = NatsSettings { more, options, ..NatsSettings::default() };
    let ca = folder.flag("nats-ca", "ca.crt");
    let site = installation(nats, vec![ca.clone(), "--nats-tls-first".to_owned()]).await;
    works(&site, "orders").await;

    // One that waits for the server to begin gets nowhere.
    let late = Gateway::start("late", &site.nats.url(), &site.routes(), &[ca]);
    eventually(PATIENCE, "it does not get through", || async {
        let metrics = late.try_metrics().await?;
        (metrics.sum_where("tidings_broker_errors_total", &["kind=\"connect\""]) > 1.0).then_some(())
    })
    .await;
    assert!(!late.is_ready().await);
}

#[tokio::test]
async fn files_for_tls_mean_that_nothing_else_will_do() {
    let authority = KubeAuthority::new().expect("an authority");
    let folder = TlsFolder::of(&authority);
    let settings = Settings::default().gateway_arg(&folder.flag("nats-ca", "ca.crt"));
    let site = settings.start_unready().await;
    eventually(PATIENCE, "the gateway does not get through", || async {
        let metrics = site.gateways[0].try_metrics().await?;
        (metrics.sum_where("tidings_broker_errors_total", &["kind=\"connect\""]) > 3.0).then_some(())
    })
    .await;
    assert!(!site.gateways[0].is_ready().await, "a server without TLS is not spoken to");
}

/// Neither the client library nor anything of ours tells what stood in an address, however much is logged.
#[tokio::test]
async fn a_password_in_the_address_is_in_no_log_at_any_level() {
    const PASSWORD: &str = "correct-horse-battery";
    let nats = NatsSettings {
        more: format!("authorization {{ user: ann, password: {PASSWORD} }}\n"),
        options: ConnectOptions::with_user_and_password("ann".to_owned(), PASSWORD.to_owned()),
        ..NatsSettings::default()
    };
    let mut nats = Nats::start_with(nats).await;
    let folder = tempfile::tempdir().expect("a directory");
    let url = nats.url().replace("nats://", &format!("nats://ann:{PASSWORD}@"));
    let loud = ["--log=trace".to_owned()];
    let gateway = Gateway::start("gateway", &url, folder.path(), &loud);
    let operator = Operator::start(&url, folder.path(), &folder.path().join("routes"), &loud);
    gateway.ready().await;
    // Both say what goes wrong as well.
    nats.kill9(0);
    eventually(PATIENCE, "NATS is missed", || async { !gateway.is_ready().await }).await;
    for process in [gateway.process(), operator.process()] {
        eventually(PATIENCE, "it has tried again", || async { process.output().contains("attempting connection") })
            .await;
        assert!(!process.output().contains(PASSWORD), "{}", process.output());
    }
    let broken = Gateway::start("broken", &format!("nats://ann:{PASSWORD}@not an address"), folder.path(), &loud);
    broken.process().exited().await;
    let told = broken.process().output();
    assert!(told.contains("not an address") && !told.contains(PASSWORD), "{told}");
}
