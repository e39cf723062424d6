// The part of the npm package tftp (0.1.2, which has no types) that the probe uses: its client's read stream.
declare module 'tftp' {
  import type { Readable } from 'node:stream';

  export interface Stats {
    readonly blockSize: number;
    readonly windowSize: number;
    /** The server's tsize; null when it did not say. */
    readonly size: number | null;
  }

  export interface GetStream extends Readable {
    on(event: 'stats', listener: (stats: Stats) => void): this;
    on(event: 'data', listener: (chunk: Buffer) => void): this;
    on(event: 'end' | 'abort' | 'close', listener: () => void): this;
    on(event: 'error', listener: (error: Error) => void): this;
    /** Sends an ERROR with this text; `abort` follows. */
    abort(reason?: string): void;
  }

  /** `timeout` in milliseconds, before each of `retries` repetitions. */
  export function createClient(options: { readonly host: string; readonly port?: number; readonly retries?: number; readonly timeout?: number; readonly blockSize?: number; readonly windowSize?: number }): {
    createGetStream(remote: string, options?: { readonly userExtensions?: Readonly<Record<string, string>> }): GetStream;
  };
}
