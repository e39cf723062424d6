// What rackseed takes for granted of k0s' command line, row by row, and where each was read in k0s' source. None was checked by running k0s.

/** The release whose source was read; paths in `source` are in k0sproject/k0s at this tag. */
export const READ_IN = 'v1.36.1+k0s.0';

export interface ContractRow {
  readonly claim: string;
  /**
   * `fresh`: nothing is installed. `installed`: `install controller --single`. `single`: that, started and ready. `stopped`: that, stopped.
   * `joinable`: a ready controller with `--enable-worker --no-taints`.
   */
  readonly given: 'fresh' | 'installed' | 'single' | 'stopped' | 'joinable';
  /** The row changes what is given: it gets a state of its own. */
  readonly alone?: true;
  readonly command: readonly string[];
  readonly exit: 0 | 1;
  readonly stdout?: RegExp;
  readonly stderr?: RegExp;
  /** stdout is a JSON object with at least these keys. */
  readonly jsonKeys?: readonly string[];
  /** What /etc/systemd/system/k0s{controller,worker}.service then holds. */
  readonly unit?: RegExp;
  /** Where it was read, or that it was not. */
  readonly source: string;
}

export const NOT_CHECKED = 'not checked';

const INSTALL = 'cmd/install/controller.go, cmd/install/util.go, pkg/install/service.go';
const EXISTS = 'pkg/install/service.go; the text: kardianos/service service_systemd_linux.go (k0s has 1.2.4)';

export const CONTRACT: readonly ContractRow[] = [
  { claim: 'version prints the version alone', given: 'fresh', command: ['version'], exit: 0, stdout: /^v\d+\.\d+\.\d+\S*\+k0s\.\d+\n$/, source: 'cmd/version/version.go' },
  { claim: 'version --json has the key k0s', given: 'fresh', command: ['version', '--json'], exit: 0, jsonKeys: ['k0s'], source: 'cmd/version/version.go' },
  { claim: 'version --all begins with "k0s :"', given: 'fresh', command: ['version', '--all'], exit: 0, stdout: /^k0s : v/, source: 'cmd/version/version.go' },
  { claim: 'an unknown command is exit 1', given: 'fresh', command: ['nonsense'], exit: 1, stderr: /^Error: unknown command "nonsense" for "k0s"/, source: 'main.go (exit 1); the text is cobra\'s' },
  { claim: 'an unknown flag is exit 1', given: 'fresh', command: ['start', '--nonsense'], exit: 1, stderr: /unknown flag: --nonsense/, source: 'main.go (exit 1); the text is cobra\'s' },
  { claim: 'sysinfo -o json is a list of findings', given: 'fresh', command: ['sysinfo', '-o', 'json'], exit: 0, stdout: /"displayName": .*"prop": .*"message": .*"category": "(pass|warning)"/s, source: 'cmd/sysinfo/sysinfo.go' },
  { claim: 'sysinfo refuses another output format', given: 'fresh', command: ['sysinfo', '-o', 'xml'], exit: 1, stderr: /unknown output format: "xml"/, source: 'cmd/sysinfo/sysinfo.go' },

  { claim: 'install controller --single writes the unit with the flags sorted and with values', given: 'fresh', alone: true, command: ['install', 'controller', '--single'], exit: 0, unit: /^ExecStart=\S+ controller --single=true$/m, source: INSTALL },
  { claim: 'install controller -c makes the path absolute and keeps --force out of the unit', given: 'fresh', alone: true, command: ['install', 'controller', '--single', '-c', '/dev/null', '--force'], exit: 0, unit: /^ExecStart=\S+ controller --config=\/dev\/null --single=true$/m, source: INSTALL },
  { claim: 'install controller takes --disable-components=autopilot', given: 'fresh', alone: true, command: ['install', 'controller', '--single', '--disable-components=autopilot'], exit: 0, unit: /^ExecStart=\S+ controller --disable-components=autopilot --single=true$/m, source: `${INSTALL}, pkg/config/cli.go, pkg/constant/constant.go` },
  { claim: 'install controller takes --enable-worker --no-taints', given: 'fresh', alone: true, command: ['install', 'controller', '--enable-worker', '--no-taints'], exit: 0, unit: /^ExecStart=\S+ controller --enable-worker=true --no-taints=true$/m, source: `${INSTALL}, pkg/config/cli.go` },
  { claim: 'install controller with a config that does not exist fails', given: 'fresh', alone: true, command: ['install', 'controller', '-c', '/nonexistent.yaml'], exit: 1, stderr: /failed to load node config: open \/nonexistent\.yaml: no such file or directory/, source: 'cmd/install/controller.go, pkg/config/cfgvars.go' },
  { claim: 'install worker writes k0sworker with the token file, not the token', given: 'fresh', alone: true, command: ['install', 'worker', '--token-file', '/run/token'], exit: 0, unit: /^ExecStart=\S+ worker --token-file=\/run\/token$/m, source: 'cmd/install/worker.go, cmd/install/util.go' },
  { claim: 'the unit kills only the main process and restarts it', given: 'fresh', alone: true, command: ['install', 'controller'], exit: 0, unit: /^KillMode=process$[^]*^Restart=always$/m, source: 'pkg/install/systemd_linux.go; Restart: kardianos/service service_systemd_linux.go' },
  { claim: 'a second install without --force fails', given: 'installed', command: ['install', 'controller', '--single'], exit: 1, stderr: /failed to install controller service: Init already exists: \S*\/etc\/systemd\/system\/k0scontroller\.service/, source: `cmd/install/controller.go; ${EXISTS}` },
  { claim: 'a second install with --force replaces the unit', given: 'installed', alone: true, command: ['install', 'controller', '--enable-worker', '--force'], exit: 0, unit: /^ExecStart=\S+ controller --enable-worker=true$/m, source: 'pkg/install/service.go' },
  { claim: 'install without a role shows help and is exit 0', given: 'fresh', command: ['install'], exit: 0, source: 'cmd/install/install.go; that ErrHelp is exit 0 is cobra\'s' },

  { claim: 'start before install fails', given: 'fresh', command: ['start'], exit: 1, stderr: /^Error: k0s has not been installed as a service/m, source: 'cmd/start/start.go, pkg/install/service.go' },
  { claim: 'start starts an installed service', given: 'installed', alone: true, command: ['start'], exit: 0, source: 'pkg/install/service.go' },
  { claim: 'start of a running service fails', given: 'single', command: ['start'], exit: 1, stderr: /^Error: already running/m, source: 'pkg/install/service.go' },
  { claim: 'stop of a running service', given: 'single', alone: true, command: ['stop'], exit: 0, source: 'cmd/stop/stop.go' },
  { claim: 'stop of a stopped service fails', given: 'stopped', command: ['stop'], exit: 1, stderr: /^Error: already stopped/m, source: 'cmd/stop/stop.go' },

  { claim: 'status is exit 1 when nothing runs', given: 'installed', command: ['status', '-o', 'json'], exit: 1, stderr: /^Error: status: can't get "status" via "\S*\/run\/k0s\/status\.sock"/m, source: 'cmd/status/status.go, pkg/component/status/client.go, pkg/config/cfgvars.go' },
  {
    claim: 'status -o json has these keys',
    given: 'single',
    command: ['status', '-o', 'json'],
    exit: 0,
    jsonKeys: ['Version', 'Pid', 'PPid', 'Role', 'SysInit', 'StubFile', 'Output', 'Workloads', 'SingleNode', 'Args', 'WorkerToAPIConnectionStatus', 'ClusterConfig', 'K0sVars'],
    source: 'pkg/component/status/client.go (no JSON tags: Go writes the field names)',
  },
  { claim: 'status of a single node says so, with role controller', given: 'single', command: ['status', '-o', 'json'], exit: 0, stdout: /"Role": "controller"[^]*"Workloads": true[^]*"SingleNode": true/, source: 'cmd/controller/controller.go, pkg/config/cli.go' },
  { claim: 'status in plain text has Version, Process ID, Role, Workloads, SingleNode', given: 'single', command: ['status'], exit: 0, stdout: /^Version: v.*\nProcess ID: \d+\nRole: controller\nWorkloads: true\nSingleNode: true\n/, source: 'cmd/status/status.go' },
  { claim: 'status of a controller with workloads is not a single node', given: 'joinable', command: ['status', '-o', 'json'], exit: 0, stdout: /"Workloads": true[^]*"SingleNode": false/, source: 'cmd/controller/controller.go, pkg/config/cli.go' },

  { claim: 'kubectl before the first start says that the server does not run', given: 'installed', command: ['kubectl', 'get', '--raw=/readyz'], exit: 1, stderr: /cannot stat k0s kubeconfig, is the server running\?/, source: 'cmd/kubectl/kubectl.go' },
  { claim: 'kubectl get --raw=/readyz of a ready server prints ok without a newline', given: 'single', command: ['kubectl', 'get', '--raw=/readyz'], exit: 0, stdout: /^ok$/, source: NOT_CHECKED },
  { claim: 'kc is short for kubectl', given: 'single', command: ['kc', 'get', '--raw', '/readyz'], exit: 0, stdout: /^ok$/, source: 'cmd/kubectl/kubectl.go (the alias)' },
  { claim: 'kubectl of a stopped server is exit 1', given: 'stopped', command: ['kubectl', 'get', '--raw=/readyz'], exit: 1, stderr: /refused/, source: NOT_CHECKED },

  { claim: 'kubeconfig admin before the first start names the missing file', given: 'installed', command: ['kubeconfig', 'admin'], exit: 1, stderr: /admin PKI file "\S+\/pki\/ca\.crt" not found, check if the control plane is initialized on this node/, source: 'cmd/kubeconfig/admin.go' },
  { claim: 'kubeconfig admin has cluster local, context Default, user user', given: 'single', command: ['kubeconfig', 'admin'], exit: 0, stdout: /^\s*name: local$[^]*^\s*name: Default$[^]*^current-context: Default$[^]*^- name: user$/m, source: 'cmd/kubeconfig/admin.go' },

  { claim: 'token create on a single node is refused', given: 'single', command: ['token', 'create', '--role', 'worker', '--expiry', '10m'], exit: 1, stderr: /refusing to create token: cannot join into a single node cluster/, source: 'cmd/token/create.go' },
  { claim: 'token create prints one line of base64 of gzip', given: 'joinable', command: ['token', 'create', '--role=worker', '--expiry=10m'], exit: 0, stdout: /^H4sI[A-Za-z0-9+/]+=*\n$/, source: 'cmd/token/create.go, pkg/token/joinencode.go' },
  { claim: 'token create refuses an unknown role', given: 'joinable', command: ['token', 'create', '--role', 'king'], exit: 1, stderr: /unsupported role "king"; supported roles are "controller" and "worker"/, source: 'cmd/token/token.go' },
  { claim: 'token create refuses an expiry without a unit', given: 'joinable', command: ['token', 'create', '--expiry', '10'], exit: 1, stderr: /duration/, source: 'cmd/token/create.go (time.ParseDuration)' },
  { claim: 'token create without a running k0s fails', given: 'stopped', command: ['token', 'create', '--expiry', '10m'], exit: 1, stderr: /failed to get k0s status/, source: 'cmd/token/create.go' },
  { claim: 'token invalidate says so, also of an unknown token', given: 'joinable', command: ['token', 'invalidate', 'abcdef'], exit: 0, stdout: /^token abcdef deleted successfully\n$/, source: 'cmd/token/invalidate.go, pkg/token/manager.go' },
  { claim: 'token invalidate wants a token', given: 'joinable', command: ['token', 'invalidate'], exit: 1, stderr: /requires at least 1 arg/, source: 'cmd/token/invalidate.go; the text is cobra\'s' },

  { claim: 'controller refuses to run twice', given: 'single', command: ['controller', '--single'], exit: 1, stderr: /another k0s process is still running/, source: 'pkg/config/runtime.go, cmd/controller/controller.go' },
  { claim: 'controller refuses to disable an unknown component', given: 'fresh', command: ['controller', '--disable-components=nonsense'], exit: 1, stderr: /unknown component nonsense/, source: 'pkg/config/cli.go' },
  { claim: 'reset of a running k0s is refused', given: 'single', command: ['reset'], exit: 1, stderr: /another k0s process is still running, please stop k0s before reset/, source: 'cmd/reset/reset.go, pkg/uninstall/uninstall.go' },
  { claim: 'reset of a stopped k0s is exit 0', given: 'stopped', alone: true, command: ['reset'], exit: 0, source: 'cmd/reset/reset.go' },
];
