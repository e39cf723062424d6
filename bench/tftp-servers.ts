// The TFTP servers that are measured: each hands out the same directory, is started anew for each measurement, and ended by its own pid.
import { closeSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { dieWithUs, ended, stop } from '../src/lab/child.ts';
import { NET, type Site } from './site.ts';
import { rackseedArgv, versionOf, written } from './start.ts';
import { download, filesDir } from './tftp-load.ts';

export interface Server {
  readonly name: 'rackseed' | 'tftpd-hpa' | 'atftpd' | 'dnsmasq';
  readonly version: string;
  /** Writes its configuration into `state` and says how to start it. */
  prepare(state: string, files: string): readonly string[];
}

export interface Running {
  readonly pid: number;
  /** An Error when it has ended by itself meanwhile. */
  stop(): Promise<void>;
}

/** `cli` is the built dist/cli.js, `root` the tree that holds bench/peers. */
export function allServers(root: string, cli: string): readonly Server[] {
  return [
    {
      name: 'rackseed',
      version: versionOf(process.execPath, [cli, '--version']),
      prepare: (state, files) => rackseedArgv(root, cli, state, 'tftp-rackseed.yaml', { FILES: files }),
    },
    {
      name: 'tftpd-hpa',
      version: versionOf('in.tftpd', ['-V']),
      // -L: by itself, in the foreground · -s: as Debian starts it · -u root: `tftp`, its user, cannot read the run's directory.
      prepare: (_state, files) => ['in.tftpd', '-L', '-4', '-a', `${NET.server}:69`, '-u', 'root', '-s', files],
    },
    {
      name: 'atftpd',
      version: versionOf('atftpd', ['--version']),
      // --maxthread: its default of 100 is twice what the run needs, but ended transfers linger · --verbose 3: errors only, as the others.
      // --user: `nobody` cannot read the run's directory. Its other defaults stand: its timer is 5 s, and every ACK is answered, also one that came twice.
      prepare: (_state, files) => ['atftpd', '--daemon', '--no-fork', '--bind-address', NET.server, '--user', 'root.root', '--group', 'root', '--maxthread', '1000', '--verbose=3', '--logfile', '/dev/stderr', files],
    },
    {
      name: 'dnsmasq',
      version: versionOf('dnsmasq', ['--version']),
      prepare: (state, files) => ['dnsmasq', '--keep-in-foreground', `--conf-file=${written(root, 'tftp-dnsmasq.conf', join(state, 'dnsmasq.conf'), { FILES: files })}`],
    },
  ];
}

/** Starts it and waits, at most a minute, until it has handed out a whole file. */
export async function start(server: Server, site: Site): Promise<Running> {
  if (server.version === 'not installed') throw new Error('it is neither installed nor unpacked: npm run bench says why at its start');
  const state = join(site.dir, server.name);
  rmSync(state, { recursive: true, force: true });
  mkdirSync(state, { recursive: true });
  const said = join(state, 'said');
  const output = openSync(said, 'w');
  const child = site.servers.spawn(dieWithUs(server.prepare(state, filesDir(site))), { stdio: ['ignore', output, output] });
  closeSync(output);
  const lastWords = () => readFileSync(said, 'utf8').trim().split('\n').slice(-3).map((line) => line.slice(0, 300)).join('\n  ');
  const end = ended(child).then((line) => ({ line }));
  const ready = await Promise.race([download(site, { file: 'small', clients: 1, blksize: 1428, windowsize: 1, seconds: 60, timeout: 0.02 }), end]);
  if ('line' in ready || ready.finished !== 1) {
    await stop(child);
    throw new Error(`${'line' in ready ? `it ended by itself (${ready.line})` : `it handed out no file (${ready.error || 'a minute long'})`}; its last words:\n  ${lastWords()}`);
  }
  return {
    pid: child.pid!,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) throw new Error(`it ended in the middle of a run (${(await end).line}); its last words:\n  ${lastWords()}`);
      await stop(child, 'SIGTERM', 30_000);
    },
  };
}
