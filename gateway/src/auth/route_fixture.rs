//! Routes for tests.

/// A public durable channel's Route.
pub(crate) fn document(name: &str, retry: u32, state: &str) -> String {
    format!(
        "version: 1\nnamespace: demo\nname: {name}\ngeneration: 1\nstate: {state}\n\
         source: {{durability: Durable, stream: TIDINGS_demo_{name}}}\n\
         topics: {{kind: Below, base: tidings.demo.{name}}}\n\
         events: {{from: New, encoding: Text, heartbeatSeconds: 15, retryMilliseconds: {retry}, maxEventBytes: 65536}}\n\
         access: {{tokenSources: [Header], subscribe: {{mode: Public, topics: ['>']}}, publish: {{mode: Public, topics: ['>']}}}}\n\
         cors: {{origins: [], allowCredentials: false}}\nlimits: {{}}\n"
    )
}
