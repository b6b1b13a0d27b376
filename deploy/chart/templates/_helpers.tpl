{{/* Names and labels; a RayCluster's name may have 50 characters with what KubeRay adds. */}}
{{- define "yoso.name" -}}
{{- $name := ternary .Release.Name (printf "%s-yoso" .Release.Name) (contains "yoso" .Release.Name) -}}
{{- $name | trunc 36 | trimSuffix "-" -}}
{{- end }}

{{- define "yoso.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "yoso.selector" . }}
{{- end }}

{{- define "yoso.selector" -}}
app.kubernetes.io/name: yoso
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "yoso.serviceImage" -}}
{{ .Values.images.service.repository }}:{{ .Values.images.service.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "yoso.workerImage" -}}
{{ .Values.images.worker.repository }}:{{ .Values.images.worker.tag | default .Chart.AppVersion }}
{{- end }}

{{/* What every pod has: nobody's privileges, and no token of Kubernetes' own but for who has to ask it. */}}
{{- define "yoso.podSecurity" -}}
automountServiceAccountToken: {{ .kubernetesToken | default false }}
enableServiceLinks: false
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "yoso.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "yoso.storageUrl" -}}
{{ ternary "/storage" .Values.storage.url (ne .Values.storage.claim "") }}
{{- end }}

{{/* Settings of API, dispatchers and migration. The password comes from a file: whoever may look at a pod reads its environment. */}}
{{- define "yoso.settings" -}}
- {name: YOSO_DATABASE_URL, value: {{ .Values.database.url | quote }}}
- {name: YOSO_DATABASE_PASSWORD_FILE, value: /secrets/database/password}
- {name: YOSO_STORAGE, value: {{ include "yoso.storageUrl" . | quote }}}
- {name: YOSO_DATA_ROOTS, value: {{ join ":" .Values.dataRoots | quote }}}
{{- end }}

{{- define "yoso.storageCredentials" -}}
{{- with .Values.storage.credentialsSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{/* Storage and datasets lie at the same place for the service and for Ray. */}}
{{- define "yoso.dataVolumes" -}}
{{- with .Values.storage.claim }}
- name: storage
  persistentVolumeClaim: {claimName: {{ . }}}
{{- end }}
{{- range .Values.datasets }}
- name: dataset-{{ .name }}
  persistentVolumeClaim: {claimName: {{ .claim }}, readOnly: true}
{{- end }}
- name: tmp
  emptyDir: {}
{{- end }}

{{- define "yoso.dataMounts" -}}
{{- if .Values.storage.claim }}
- {name: storage, mountPath: /storage}
{{- end }}
{{- range .Values.datasets }}
- {name: dataset-{{ .name }}, mountPath: {{ .path | quote }}, readOnly: true}
{{- end }}
- {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "yoso.databaseVolume" -}}
- name: database
  secret:
    secretName: {{ .Values.database.passwordSecret.name }}
    defaultMode: 0440
    items: [{key: {{ .Values.database.passwordSecret.key }}, path: password}]
{{- end }}

{{/* What the groups may grow to, as YOSO_NODE_GROUPS tells it to the dispatchers. */}}
{{- define "yoso.nodeGroups" -}}
{{- $groups := list -}}
{{- range .Values.ray.groups -}}
{{- $types := ternary (list .acceleratorType) list (ne (.acceleratorType | default "") "") -}}
{{- $groups = append $groups (dict "name" .name "max_nodes" (int .maxNodes) "cpus" .cpus "gpus" (.gpus | default 0) "accelerator_types" $types) -}}
{{- end -}}
{{ toJson $groups }}
{{- end }}
