# The one door: people and CI do everything through these targets. `make help` lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:
# One cargo at a time; cargo itself uses all cores.
.NOTPARALLEL:

.PHONY: help run test client clients chaos bench check lint fmt build images cluster e2e generate deny advisories clean

help: ## List the targets
	@echo "Usage: make TARGET [VARIABLE=value …]"
	@echo
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Variables of run: PORT (8080), ADMIN_PORT (9090), NATS_PORT (4222), or NATS_URL for a server that already runs."

run: build ## Run everything on this machine with the channels in docs/examples; Ctrl-C ends it
	@exec scripts/run.sh

test: ## Run all tests; installs what they need (nats-server, Chromium) in pinned versions
	@exec scripts/test.sh

client: ## Build the package for browsers and Node (gateway/client) and run its tests
	cargo build --workspace --bins
	@exec scripts/client.sh

clients: ## Try clients from npm, PyPI and Go modules against the gateway; FAMILIES="node python go" chooses
	cargo build --workspace --bins
	@exec scripts/clients.sh $(FAMILIES)

chaos: build ## Random histories on three NATS servers under faults: SEEDS=300
	TIDINGS_CHAOS_SEEDS=$(or $(SEEDS),300) cargo test --workspace --test model chaos -- --ignored --nocapture

bench: ## Measure the release build beside nchan and the floor of the machine; ARGS="--all --rounds 5" for everything
	@exec scripts/bench.sh $(ARGS)

check: lint ## Run the lints and the unit tests: a few minutes, right before every commit
	cargo test --workspace --lib --bins

lint: ## Check format, lints, generated files, docs, licences and duplicate dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	@scripts/generate.sh --check
	@scripts/check-docs.sh
	@$(MAKE) --no-print-directory deny

fmt: ## Format the code
	cargo fmt --all

# --workspace everywhere: building one package alone resolves other features, and rebuilds what stands below it.
build: ## Build the operator and the gateway
	cargo build --workspace --bins

images: ## Build the container images as OCI archives, without a container engine
	@exec scripts/images.sh

cluster: ## Start a Kubernetes cluster on this machine and import the images; Ctrl-C ends it (NODES=1)
	@exec scripts/cluster.sh

# Only a KUBECONFIG that is written behind make counts: in many shells one is set that means something else.
e2e: ## Install the chart on a real cluster and use it: one on this machine (as root), or KUBECONFIG=FILE
	@exec scripts/e2e.sh $(if $(filter command,$(firstword $(origin KUBECONFIG))),--kubeconfig "$(KUBECONFIG)")

generate: ## Write the files that are generated from the code
	@exec scripts/generate.sh

deny: ## Check licences, sources and duplicate dependencies against deny.toml
	@"$$(scripts/cargo-deny.sh)" --all-features check --hide-inclusion-graph licenses bans sources

advisories: ## Check the dependencies for known vulnerabilities; fetches the RustSec database
	@"$$(scripts/cargo-deny.sh)" check advisories

clean: ## Remove what was built and what make run keeps; downloaded tools stay in the cache
	cargo clean
	rm -rf .run tests/browser/node_modules tests/clients/node/node_modules gateway/client/node_modules gateway/client/dist
