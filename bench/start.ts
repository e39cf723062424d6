// How servers under test are started: their version, their configuration with our words put in, and rackseed as its operators start it.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** `not installed` when there is no such program, `unknown` when it does not say. */
export function versionOf(program: string, args: readonly string[]): string {
  const { stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8' });
  return error ? 'not installed' : (/\d+\.\d+(\.\d+)?/.exec(`${stdout}${stderr}`)?.[0] ?? 'unknown');
}

/** Writes bench/peers/`name` to `file`, each `@WORD@` replaced; answers `file`. */
export function written(root: string, name: string, file: string, words: Readonly<Record<string, string>>): string {
  const text = readFileSync(join(root, 'bench/peers', name), 'utf8');
  writeFileSync(file, text.replace(/@([A-Z]+)@/g, (whole, word: string) => words[word] ?? whole));
  return file;
}

/** As npm start and the systemd unit start it, by bench/peers/`config`; its profiles are in `<state>/profiles`. */
export function rackseedArgv(root: string, cli: string, state: string, config: string, words: Readonly<Record<string, string>> = {}): string[] {
  const { flags, environment } = JSON.parse(readFileSync(join(root, 'src/setup/node-start.json'), 'utf8')) as { flags: string[]; environment: Record<string, string> };
  mkdirSync(join(state, 'profiles'), { recursive: true });
  return ['/usr/bin/env', ...Object.entries(environment).map(([name, value]) => `${name}=${value}`), process.execPath, ...flags, cli, 'serve', '--config', written(root, config, join(state, 'rackseed.yaml'), { ...words, STATE: state })];
}
