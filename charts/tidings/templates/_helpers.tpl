{{/* Names begin with the release, so that several releases fit into one namespace. Cluster-wide ones carry the namespace too. */}}
{{- define "tidings.clusterName" -}}
{{ .Release.Namespace }}:{{ .Release.Name }}
{{- end -}}

{{- define "tidings.selector" -}}
app.kubernetes.io/name: tidings
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Of pods: without the version of the chart, so that a new chart alone restarts nothing. */}}
{{- define "tidings.podLabels" -}}
{{ include "tidings.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end -}}

{{- define "tidings.labels" -}}
{{ include "tidings.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* repository, and the digest or the tag. */}}
{{- define "tidings.imageName" -}}
{{- if .image.digest -}}{{ .image.repository }}@{{ .image.digest }}{{- else -}}{{ .image.repository }}:{{ .image.tag | default .default }}{{- end -}}
{{- end -}}

{{- define "tidings.image" -}}
image: {{ include "tidings.imageName" (dict "image" .Values.image "default" .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{- define "tidings.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What Pod Security "restricted" asks for. */}}
{{- define "tidings.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "tidings.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* Where a pod may run: what its component's values say. */}}
{{- define "tidings.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "tidings.spread" -}}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "tidings.selector" $ | nindent 6 }}
  # Each version is spread by itself, so that an upgrade does not end lopsided.
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end -}}

{{/* TIDINGS_NATS, with the built-in server's password out of its Secret. Arguments: root, user. */}}
{{- define "tidings.natsEnv" -}}
{{- if .root.Values.nats.builtIn.enabled -}}
- name: NATS_PASSWORD
  valueFrom:
    secretKeyRef: { name: {{ include "tidings.natsSecret" .root }}, key: {{ .user }}-password }
- name: TIDINGS_NATS
  value: nats://{{ .user }}:$(NATS_PASSWORD)@{{ .root.Release.Name }}-nats.{{ .root.Release.Namespace }}.svc:4222
{{- else -}}
- name: TIDINGS_NATS
  value: {{ .root.Values.nats.url | quote }}
{{- end -}}
{{- end -}}

{{- define "tidings.natsSecret" -}}
{{ .Values.nats.builtIn.existingSecret | default (printf "%s-nats" .Release.Name) }}
{{- end -}}

{{/* Files for NATS. Whole directories: the kubelet never renews a file that is mounted alone. Mode 288 is 0440. Arguments: root, secret. */}}
{{- define "tidings.natsMounts" -}}
{{- if not .root.Values.nats.builtIn.enabled -}}
{{- if .secret }}
- { name: nats-credentials, mountPath: /etc/tidings/nats-credentials, readOnly: true }
{{- end }}
{{- if .root.Values.nats.tls.caSecret }}
- { name: nats-ca, mountPath: /etc/tidings/nats-ca, readOnly: true }
{{- end }}
{{- if .root.Values.nats.tls.clientSecret }}
- { name: nats-client, mountPath: /etc/tidings/nats-client, readOnly: true }
{{- end }}
{{- end -}}
{{- end -}}

{{- define "tidings.natsVolumes" -}}
{{- if not .root.Values.nats.builtIn.enabled -}}
{{- with .secret }}
- name: nats-credentials
  secret: { secretName: {{ . }}, defaultMode: 288 }
{{- end }}
{{- with .root.Values.nats.tls.caSecret }}
- name: nats-ca
  secret: { secretName: {{ . }} }
{{- end }}
{{- with .root.Values.nats.tls.clientSecret }}
- name: nats-client
  secret: { secretName: {{ . }}, defaultMode: 288 }
{{- end }}
{{- end -}}
{{- end -}}

{{- define "tidings.natsArgs" -}}
{{- if not .root.Values.nats.builtIn.enabled -}}
{{- if .secret }}
- --nats-credentials=/etc/tidings/nats-credentials/{{ .root.Values.nats.credentials.key }}
{{- end }}
{{- if .root.Values.nats.tls.caSecret }}
- --nats-ca=/etc/tidings/nats-ca/{{ .root.Values.nats.tls.caKey }}
{{- end }}
{{- if .root.Values.nats.tls.clientSecret }}
- --nats-cert=/etc/tidings/nats-client/tls.crt
- --nats-key=/etc/tidings/nats-client/tls.key
{{- end }}
{{- if .root.Values.nats.tls.first }}
- --nats-tls-first
{{- end }}
{{- end -}}
{{- end -}}

{{/* The operator's settings file; nothing where there is nothing to set. */}}
{{- define "tidings.operator.settings" -}}
{{- with .Values.operator.subjectGrants -}}
subjectGrants: {{- toYaml . | nindent 2 }}
{{ end -}}
{{- with .Values.operator.quotas -}}
quotas: {{- toYaml . | nindent 2 }}
{{ end -}}
{{- end -}}

{{/* What Channels can have as subjects: their own, and what is granted. A JSON list. */}}
{{- define "tidings.subjects" -}}
{{- $subjects := list "tidings.>" -}}
{{- range .Values.operator.subjectGrants -}}
{{- $subjects = concat $subjects .subjects -}}
{{- end -}}
{{- $subjects | uniq | toJson -}}
{{- end -}}

{{- define "tidings.servicePort" -}}
{{- .Values.gateway.service.port | default (ternary 443 80 (not (empty .Values.gateway.tls.secretName))) -}}
{{- end -}}

{{/* Where the public meets it, as far as the values tell. */}}
{{- define "tidings.publicUrl" -}}
{{- if .Values.publicUrl -}}
{{ .Values.publicUrl | trimSuffix "/" }}
{{- else if and .Values.ingress.enabled .Values.ingress.hosts -}}
{{ ternary "https" "http" (not (empty .Values.ingress.tlsSecret)) }}://{{ first .Values.ingress.hosts }}
{{- else if and .Values.httpRoute.enabled .Values.httpRoute.hostnames -}}
https://{{ first .Values.httpRoute.hostnames }}
{{- end -}}
{{- end -}}

{{/* Its address within the cluster. */}}
{{- define "tidings.serviceUrl" -}}
{{- $tls := not (empty .Values.gateway.tls.secretName) -}}
{{- $port := include "tidings.servicePort" . -}}
{{ ternary "https" "http" $tls }}://{{ .Release.Name }}-gateway.{{ .Release.Namespace }}.svc{{ if ne $port (ternary "443" "80" $tls) }}:{{ $port }}{{ end }}
{{- end -}}

{{/* The process leaves five seconds after the window at the latest; five more are for the kubelet. */}}
{{- define "tidings.gracePeriod" -}}
{{- add .Values.gateway.drain.delaySeconds .Values.gateway.drain.windowSeconds 10 -}}
{{- end -}}

{{/* Faults that the schema cannot see. Included once, by the operator's Deployment. */}}
{{- define "tidings.check" -}}
{{- if and (not .Values.nats.builtIn.enabled) (not .Values.nats.url) -}}
{{- fail "nats.url: write where your NATS is, as in nats://nats.example:4222, or set nats.builtIn.enabled to true" -}}
{{- end -}}
{{- if and .Values.nats.builtIn.enabled .Values.nats.url -}}
{{- fail "nats.url: it has no effect while nats.builtIn.enabled is true; set that to false" -}}
{{- end -}}
{{- if .Values.nats.builtIn.enabled -}}
{{- range $name, $value := dict "nats.credentials.operatorSecret" .Values.nats.credentials.operatorSecret "nats.credentials.gatewaySecret" .Values.nats.credentials.gatewaySecret "nats.tls.caSecret" .Values.nats.tls.caSecret "nats.tls.clientSecret" .Values.nats.tls.clientSecret -}}
{{- if $value -}}{{- fail (printf "%s: it has no effect while nats.builtIn.enabled is true; set that to false and give nats.url" $name) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.hosts: write at least one host name" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: name the Gateway, as in [{ name: public, namespace: gateways }]" -}}
{{- end -}}
{{- if .Values.gateway.autoscaling.enabled -}}
{{- if gt (int .Values.gateway.autoscaling.minReplicas) (int .Values.gateway.autoscaling.maxReplicas) -}}
{{- fail "gateway.autoscaling.minReplicas: it is larger than gateway.autoscaling.maxReplicas" -}}
{{- end -}}
{{- if not (or .Values.gateway.autoscaling.cpuPercent .Values.gateway.autoscaling.connections) -}}
{{- fail "gateway.autoscaling.cpuPercent: it and gateway.autoscaling.connections are both 0; scale by one of them" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.monitoring.podMonitor.enabled .Values.monitoring.serviceMonitor.enabled -}}
{{- fail "monitoring.serviceMonitor.enabled: with monitoring.podMonitor.enabled every metric would be counted twice; choose one" -}}
{{- end -}}
{{- if gt (len .Release.Name) 40 -}}
{{- fail (printf "the release's name %q is too long: write at most 40 characters" .Release.Name) -}}
{{- end -}}
{{- if contains "." .Release.Name -}}
{{- fail (printf "the release's name %q: write it without dots, it becomes part of Services' names" .Release.Name) -}}
{{- end -}}
{{- end -}}
