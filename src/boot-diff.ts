// What differs between two boot sets, each difference with what it takes to reach a node: a reboot, or its steps alone. Pure.
import type { BootSet, ImageRef } from './boot/profile.ts';
import { canonicalJson } from './digest.ts';

/**
 * `reboot`: only a reboot brings it to the node (what the kernel, its command line and the initrd stage read). `steps`: what the post-boot steps read and apply,
 * on a system that stays as it is.
 */
export type Needs = 'reboot' | 'steps';

export interface BootChange {
  /** `image`, `cmdline`, `root.state`, `postBoot.commit`, `artifacts.k0s`, `vars.role`, `ssh`, `config.etc/motd`, `shell`; `boot` when one of both is the node's own disk. */
  readonly what: string;
  /** As a person would write it; digests whole. Absent: it was not there. */
  readonly from?: string;
  /** Absent: it is gone. */
  readonly to?: string;
  readonly needs: Needs;
}

/**
 * Every difference from `a` to `b`, ordered as a boot meets them; empty when both boot the same. `undefined` stands for the node's own disk (`boot: local`).
 * Texts of files and keys are told by their size and count alone: they are long, and none of a list's business.
 */
export function diffBootSets(a: BootSet | undefined, b: BootSet | undefined): BootChange[] {
  if (!a || !b) return a === b ? [] : [{ what: 'boot', from: a ? imageName(a.image) : 'local', to: b ? imageName(b.image) : 'local', needs: 'reboot' }];
  return [
    ...imageChanges(a.image, b.image),
    ...change('cmdline', joined(a.cmdline), joined(b.cmdline), 'reboot'),
    ...members('root', { ...a.root }, { ...b.root }, 'reboot'),
    ...change('ssh', keyed(a.sshKeys), keyed(b.sshKeys), 'reboot', () => [count(a.sshKeys), count(b.sshKeys)]),
    ...texts('config', a.config, b.config),
    ...change('shell', a.shell && 'yes', b.shell && 'yes', 'reboot'),
    ...members('postBoot', { ...a.postBoot }, { ...b.postBoot }, 'steps'),
    ...members('artifacts', artifactTexts(a), artifactTexts(b), 'steps'),
    ...members('vars', a.vars, b.vars, 'steps'),
  ];
}

/** An image is known by its digest; what may be added to a build later (its UKI, its signature) is told only when the build is the same. */
function imageChanges(a: ImageRef, b: ImageRef): BootChange[] {
  const whole = change('image', imageName(a), imageName(b), 'reboot');
  if (whole.length > 0) return whole;
  const { cmdline: _a, ...restA } = a;
  const { cmdline: _b, ...restB } = b;
  const [was, is]: Record<string, unknown>[] = [restA, restB];
  return [...new Set([...Object.keys(was!), ...Object.keys(is!)])].flatMap((key) =>
    change(`image.${key}`, canonicalOf(was![key]), canonicalOf(is![key]), 'reboot', () => [shown(was![key]), shown(is![key])]),
  );
}

function imageName({ name, digest }: ImageRef): string {
  return `${name}@${digest}`;
}

function artifactTexts({ artifacts }: BootSet): Record<string, string> {
  return Object.fromEntries(Object.entries(artifacts).map(([name, { version, digest }]) => [name, `${version}@${digest}`]));
}

function members(what: string, a: Readonly<Record<string, unknown>>, b: Readonly<Record<string, unknown>>, needs: Needs): BootChange[] {
  return namesOf(a, b).flatMap((name) => change(`${what}.${name}`, said(a[name]), said(b[name]), needs));
}

function texts(what: string, a: Readonly<Record<string, string>> = {}, b: Readonly<Record<string, string>> = {}): BootChange[] {
  return namesOf(a, b).flatMap((name) => change(`${what}.${name}`, a[name], b[name], 'reboot', () => [size(a[name]), size(b[name])]));
}

/** The names in either, sorted. */
export function namesOf(a: object = {}, b: object = {}): string[] {
  return [...new Set([...Object.keys(a), ...Object.keys(b)])].sort();
}

function change(what: string, from: string | undefined, to: string | undefined, needs: Needs, words?: () => readonly [string | undefined, string | undefined]): BootChange[] {
  if (from === to) return [];
  const [was, is] = words?.() ?? [from, to];
  return [{ what, ...(was === undefined ? {} : { from: was }), ...(is === undefined ? {} : { to: is }), needs }];
}

const said = (value: unknown): string | undefined => (value === undefined ? undefined : value === true ? 'yes' : String(value));
const joined = (words: readonly string[]): string | undefined => (words.length === 0 ? undefined : words.join(' '));
const keyed = (keys: readonly string[] = []): string | undefined => joined(keys.map((key) => `${key}\n`));
const count = (keys: readonly string[] = []): string | undefined => (keys.length === 0 ? undefined : `${keys.length} ${keys.length === 1 ? 'key' : 'keys'}`);
const size = (text: string | undefined): string | undefined => (text === undefined ? undefined : `${Buffer.byteLength(text)} bytes`);
const canonicalOf = (value: unknown): string | undefined => (value === undefined ? undefined : canonicalJson(value));
const shown = (value: unknown): string | undefined => {
  if (value === undefined) return undefined;
  const digest = (value as { digest?: unknown } | null)?.digest;
  return typeof digest === 'string' ? digest : 'another';
};

/** Never what every object inherits: names are the operators'. */
export function own<T>(record: Readonly<Record<string, T>> | undefined, name: string): T | undefined {
  return record && Object.hasOwn(record, name) ? record[name] : undefined;
}

/** One change as people read it, with short digests and commits: `image debian-k0s@sha256:0123456789ab -> debian-k0s@sha256:ba9876543210`. */
export function changeWords({ what, from, to }: Omit<BootChange, 'needs'> & { readonly needs?: string }): string {
  const short = (text: string): string => text.replace(/\b(sha256:[0-9a-f]{12})[0-9a-f]{52}\b/g, '$1').replace(/\b([0-9a-f]{12})[0-9a-f]{28}\b/g, '$1');
  if (from === undefined) return `${what} ${short(to ?? '')} (new)`;
  return to === undefined ? `${what} ${short(from)} (gone)` : `${what} ${short(from)} -> ${short(to)}`;
}
