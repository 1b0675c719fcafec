//! NetworkPolicies, evaluated as the API describes them: the test cluster has nobody who enforces them.
//!
//! What the chart does not use is refused rather than passed over: match expressions, port ranges.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::Value;

/// Who speaks or is spoken to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// What it is, if it is a pod; else it is outside the cluster, or a node.
    pub pod: Option<PodFacts>,
}

/// A pod as policies see it.
#[derive(Clone, Debug, Default)]
pub struct PodFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its ports by name.
    pub ports: BTreeMap<String, u16>,
}

/// The policies of a cluster.
#[derive(Clone, Debug)]
pub struct NetworkPolicies(Vec<Value>);

impl NetworkPolicies {
    /// Those among `objects`.
    pub fn of(objects: &[Value]) -> NetworkPolicies {
        let policies = objects.iter().filter(|object| object["kind"] == "NetworkPolicy");
        NetworkPolicies(policies.cloned().collect())
    }

    /// Whether a connection passes: the sender's policies must let it out, and the receiver's in.
    pub fn pass(&self, from: &Endpoint, to: &Endpoint, protocol: &str, port: u16) -> bool {
        self.allow("Egress", from, to, to, protocol, port) && self.allow("Ingress", to, from, to, protocol, port)
    }

    /// A pod that no policy selects for this direction lets everything through.
    fn allow(&self, way: &str, own: &Endpoint, peer: &Endpoint, to: &Endpoint, protocol: &str, port: u16) -> bool {
        let Some(pod) = &own.pod else { return true };
        let governs = |policy: &&Value| {
            policy["metadata"]["namespace"] == pod.namespace.as_str()
                && selects(&policy["spec"]["podSelector"], &pod.labels)
                && list(&policy["spec"]["policyTypes"]).iter().any(|kind| *kind == way)
        };
        let mut governing = self.0.iter().filter(governs).peekable();
        if governing.peek().is_none() {
            return true;
        }
        let (rules, peers) = if way == "Egress" { ("egress", "to") } else { ("ingress", "from") };
        governing.any(|policy| {
            list(&policy["spec"][rules]).iter().any(|rule| {
                let home = &pod.namespace;
                let who = rule.get(peers).is_none_or(|peers| list(peers).iter().any(|one| is_peer(one, home, peer)));
                who && rule
                    .get("ports")
                    .is_none_or(|ports| list(ports).iter().any(|one| is_port(one, to, protocol, port)))
            })
        })
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// # Panics
/// On match expressions.
fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    assert!(selector.get("matchExpressions").is_none(), "match expressions are not evaluated here: {selector}");
    let wanted = selector["matchLabels"].as_object().cloned().unwrap_or_default();
    wanted.iter().all(|(key, value)| labels.get(key).is_some_and(|found| value == found.as_str()))
}

fn is_peer(rule: &Value, home: &str, peer: &Endpoint) -> bool {
    if let Some(block) = rule.get("ipBlock") {
        assert!(block.get("except").is_none(), "exceptions are not evaluated here: {block}");
        return within(block["cidr"].as_str().expect("a network"), peer.address);
    }
    let Some(pod) = &peer.pod else { return false };
    let namespace = match rule.get("namespaceSelector") {
        Some(selector) => {
            let name = [("kubernetes.io/metadata.name".to_owned(), pod.namespace.clone())];
            selects(selector, &name.into())
        }
        None => pod.namespace == home,
    };
    namespace && rule.get("podSelector").is_none_or(|selector| selects(selector, &pod.labels))
}

fn within(network: &str, address: Ipv4Addr) -> bool {
    let (base, length) = network.split_once('/').expect("a network with a length");
    let (base, length): (Ipv4Addr, u32) = (base.parse().expect("an address"), length.parse().expect("a length"));
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    base.to_bits() & mask == address.to_bits() & mask
}

fn is_port(rule: &Value, to: &Endpoint, protocol: &str, port: u16) -> bool {
    assert!(rule.get("endPort").is_none(), "ranges of ports are not evaluated here: {rule}");
    let number = match &rule["port"] {
        Value::String(name) => to.pod.as_ref().and_then(|pod| pod.ports.get(name)).map(|port| u64::from(*port)),
        number => number.as_u64(),
    };
    number == Some(port.into()) && rule["protocol"].as_str().unwrap_or("TCP") == protocol
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(namespace: &str, app: &str) -> Endpoint {
        let labels = [("app".to_owned(), app.to_owned())].into();
        let ports = [("web".to_owned(), 8080)].into();
        let facts = PodFacts { namespace: namespace.to_owned(), labels, ports };
        Endpoint { address: Ipv4Addr::new(10, 244, 1, 7), pod: Some(facts) }
    }

    fn policy(spec: Value) -> NetworkPolicies {
        NetworkPolicies(vec![json!({"kind": "NetworkPolicy", "metadata": {"namespace": "a"}, "spec": spec})])
    }

    #[test]
    fn a_pod_without_a_policy_is_open_and_one_with_an_empty_policy_is_closed() {
        let closed = policy(json!({"podSelector": {"matchLabels": {"app": "x"}}, "policyTypes": ["Ingress"]}));
        assert!(closed.pass(&pod("b", "y"), &pod("a", "z"), "TCP", 1));
        assert!(closed.pass(&pod("b", "y"), &pod("b", "x"), "TCP", 1), "it is another namespace's");
        assert!(!closed.pass(&pod("b", "y"), &pod("a", "x"), "TCP", 1));
        assert!(closed.pass(&pod("a", "x"), &pod("b", "y"), "TCP", 1), "it says nothing about the way out");
    }

    #[test]
    fn peers_are_of_the_own_namespace_unless_namespaces_are_selected() {
        let rule = |from: Value| json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": from}]});
        let own = policy(rule(json!([{"podSelector": {"matchLabels": {"app": "y"}}}])));
        assert!(own.pass(&pod("a", "y"), &pod("a", "x"), "TCP", 1));
        assert!(!own.pass(&pod("b", "y"), &pod("a", "x"), "TCP", 1));
        let every = policy(rule(json!([{"namespaceSelector": {}}])));
        assert!(every.pass(&pod("b", "y"), &pod("a", "x"), "TCP", 1));
        let outside = Endpoint { address: Ipv4Addr::new(192, 0, 2, 1), pod: None };
        assert!(!every.pass(&outside, &pod("a", "x"), "TCP", 1), "an address outside is no pod");
        let block = policy(rule(json!([{"ipBlock": {"cidr": "192.0.2.0/24"}}])));
        assert!(block.pass(&outside, &pod("a", "x"), "TCP", 1));
        assert!(!block.pass(&pod("b", "y"), &pod("a", "x"), "TCP", 1));
    }

    #[test]
    fn ports_are_compared_by_name_number_and_protocol() {
        let rule = |ports: Value| json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": ports}]});
        let named = policy(rule(json!([{"port": "web"}])));
        assert!(named.pass(&pod("a", "x"), &pod("b", "y"), "TCP", 8080));
        assert!(!named.pass(&pod("a", "x"), &pod("b", "y"), "TCP", 9090));
        let dns = policy(rule(json!([{"port": 53, "protocol": "UDP"}])));
        assert!(dns.pass(&pod("a", "x"), &pod("b", "y"), "UDP", 53));
        assert!(!dns.pass(&pod("a", "x"), &pod("b", "y"), "TCP", 53));
    }
}
