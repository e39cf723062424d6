// What the main thread and the threads of the machines' HTTP server give and say to one another: structured clones all of it.
import type { MessagePort } from 'node:worker_threads';
import type { Ip4 } from '../addr.ts';
import type { Booter } from '../booter.ts';
import type { Digest } from '../digest.ts';
import type { ServedLoaders } from '../loaders.ts';
import type { Verdict } from '../store/verdicts.ts';
import type { CrossingError } from '../threads/rpc.ts';
import type { PartsBook } from './coverage.ts';
import type { GitLimits } from './git.ts';
import type { HttpLimits, TlsOptions } from './listener.ts';

/** What the routes call in the main thread. */
export type FrontCalls = Booter & PartsBook;
export const FRONT_CALLS = ['ask', 'seen', 'sent', 'enrol', 'session', 'report', 'release'] as const satisfies readonly (keyof FrontCalls)[];

export interface ThreadListener {
  readonly host: Ip4;
  readonly port: number;
  readonly tls: boolean;
  /** Of a socket that listens already, and stays the main thread's; absent: the thread opens one. */
  readonly fd?: number;
}

/** All that a thread is given at its start. */
export interface ThreadData {
  readonly logLevel: string;
  readonly booter: MessagePort;
  readonly counters: SharedArrayBuffer;
  readonly listeners: readonly ThreadListener[];
  readonly tls?: TlsOptions;
  readonly limits: HttpLimits;
  readonly stateDir: string;
  /** What is known of blobs so far; news come as messages. */
  readonly verdicts: readonly Verdict[];
  /** Where the thread notes the programs that it starts. */
  readonly children: SharedArrayBuffer;
  /** Where it notes the file numbers that nobody would close behind it. */
  readonly files: SharedArrayBuffer;
  /** Threads that it may start for what is large. */
  readonly pumps: number;
  /** This thread's share. */
  readonly cacheBytes: number;
  readonly publicBase?: string;
  readonly fallbacks?: readonly string[];
  readonly gitLimits: Partial<GitLimits>;
  readonly loaders: ServedLoaders;
  readonly repos: { readonly dirs: Readonly<Record<string, string>>; readonly environment: Readonly<Record<string, string | undefined>> };
}

/** `verdict`: on a blob's file, of whoever read it. `loaders`: from now on. */
export type ToThread = { readonly kind: 'stop' } | { readonly kind: 'loaders'; readonly loaders: ServedLoaders } | { readonly kind: 'tls'; readonly options: TlsOptions } | { readonly kind: 'verdict'; readonly verdict: Verdict };

export type FromThread =
  | { readonly kind: 'listening' | 'stopped' }
  | { readonly kind: 'failed'; readonly error: CrossingError | undefined; readonly text: string }
  | { readonly kind: 'log'; readonly line: string }
  | { readonly kind: 'verdict'; readonly verdict: Verdict }
  | { readonly kind: 'rotten'; readonly digest: Digest; readonly why: string; readonly movedTo?: string };
