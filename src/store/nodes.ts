// Nodes as the database knows them: the mapping MAC -> profile with its history, and what was seen of each machine.
import type { Mac } from '../addr.ts';
import type { Generation } from '../boot/profile.ts';
import type { Digest } from '../digest.ts';

export interface Assignment {
  readonly node: string;
  readonly mac: Mac;
  /** null: the mapping ended. */
  readonly profile: string | null;
  /** `yaml`, or who asked through the API. */
  readonly who: string;
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly generation: Digest;
}

export interface Seen {
  readonly uuid?: string;
  readonly serial?: string;
  readonly at: number;
}

export interface NodeStore {
  /**
   * Writes the mapping of a generation in one transaction: what changed against the mapping before becomes history rows.
   * Answers the rows that it wrote.
   */
  assign(generation: Generation, who: string, at: number): Promise<readonly Assignment[]>;
  /** Newest first. */
  history(node: string): Promise<readonly Assignment[]>;
  see(node: string, seen: Seen): Promise<void>;
  seen(node: string): Promise<(Seen & { readonly firstAt: number }) | undefined>;
  /** The generation that was assigned last. */
  generation(): Promise<{ readonly id: Digest; readonly at: number } | undefined>;
}
