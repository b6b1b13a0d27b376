{{- /* What runs searches: a head that runs none, and groups of workers; of one cluster, or of that of every search. */}}
{{- define "yoso.rayCluster" -}}
rayVersion: {{ .Values.ray.version | quote }}
authOptions: {mode: token, secretName: {{ .Values.ray.tokenSecret }}}
headGroupSpec:
  rayStartParams: {num-cpus: "0", num-gpus: "0", dashboard-host: 0.0.0.0}
  template:
    metadata:
      labels:
        {{- include "yoso.labels" . | nindent 8 }}
        app.kubernetes.io/component: ray
    spec:
      serviceAccountName: {{ include "yoso.name" . }}-ray
      {{- /* The autoscaler beside the head asks Kubernetes for pods, as which KubeRay lets the head's account. */}}
      automountServiceAccountToken: {{ eq .Values.executor "ray" }}
      {{- with .Values.images.pullSecrets }}
      imagePullSecrets:
      {{- range . }}
        - name: {{ . }}
      {{- end }}
      {{- end }}
      enableServiceLinks: false
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        runAsGroup: 10001
        fsGroup: 10001
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile: {type: RuntimeDefault}
      containers:
        - name: ray-head
          image: {{ include "yoso.workerImage" . }}
          imagePullPolicy: {{ .Values.images.pullPolicy }}
          {{- include "yoso.rayContainer" . | nindent 10 }}
          resources: {{- toYaml .Values.ray.head.resources | nindent 12 }}
      {{- with .Values.ray.head.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.ray.head.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      volumes: {{- include "yoso.rayVolumes" . | nindent 8 }}
workerGroupSpecs:
  {{- range .Values.ray.groups }}
  - groupName: {{ .name }}
    replicas: {{ .minNodes }}
    minReplicas: {{ .minNodes }}
    maxReplicas: {{ .maxNodes }}
    rayStartParams:
      num-cpus: {{ .cpus | quote }}
      num-gpus: {{ .gpus | default 0 | quote }}
      {{- with .acceleratorType }}
      resources: {{ printf "'{\"accelerator_type:%s\": 1}'" . | quote }}
      {{- end }}
    template:
      metadata:
        labels:
          {{- include "yoso.labels" $ | nindent 10 }}
          app.kubernetes.io/component: ray
      spec:
        serviceAccountName: {{ include "yoso.name" $ }}-ray
        {{- include "yoso.podSecurity" $ | nindent 8 }}
        containers:
          - name: ray-worker
            image: {{ include "yoso.workerImage" $ }}
            imagePullPolicy: {{ $.Values.images.pullPolicy }}
            {{- include "yoso.rayContainer" $ | nindent 12 }}
            resources:
              requests: {cpu: {{ .cpus | quote }}, memory: {{ .memory }}}
              limits:
                cpu: {{ .cpus | quote }}
                memory: {{ .memory }}
                {{- if .gpus }}
                nvidia.com/gpu: {{ .gpus }}
                {{- end }}
        {{- with .nodeSelector }}
        nodeSelector: {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with .tolerations }}
        tolerations: {{- toYaml . | nindent 10 }}
        {{- end }}
        volumes: {{- include "yoso.rayVolumes" $ | nindent 10 }}
  {{- end }}
{{- end }}

{{- define "yoso.rayContainer" -}}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
env:
  - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
  - {name: RAY_worker_niceness, value: "0"}
{{- include "yoso.storageCredentials" . }}
lifecycle: {preStop: {exec: {command: [ray, stop]}}}
volumeMounts:
  - {name: shared-memory, mountPath: /dev/shm}
  {{- include "yoso.dataMounts" . | nindent 2 }}
{{- end }}
{{- define "yoso.rayVolumes" -}}
- name: shared-memory
  emptyDir: {medium: Memory, sizeLimit: 2Gi}
{{ include "yoso.dataVolumes" . }}
{{- end }}

{{/* What all RayJobs have in common. Kueue lets one begin by taking its `suspend` away. */}}
{{- define "yoso.rayJob" -}}
apiVersion: ray.io/v1
kind: RayJob
metadata:
  labels:
    {{- include "yoso.labels" . | nindent 4 }}
    {{- with .Values.ray.kueueQueue }}
    kueue.x-k8s.io/queue-name: {{ . }}
    {{- end }}
spec:
  {{- if .Values.ray.kueueQueue }}
  suspend: true
  {{- end }}
  rayClusterSpec:
    {{- include "yoso.rayCluster" . | nindent 4 }}
{{- end }}
