// The packets that fuzz tests start from: captures of real machines and the corpus of hostile ones.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Seed {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** Every `*.hex` of both directories, in the order of their names. */
export function dhcpSeeds(): Seed[] {
  return ['../golden/dhcp/', 'dhcp/'].flatMap((dir) => {
    const path = new URL(dir, import.meta.url).pathname;
    const files = readdirSync(path).filter((file) => file.endsWith('.hex')).sort();
    return files.map((file) => ({ name: file.slice(0, -4), bytes: Uint8Array.from(Buffer.from(readFileSync(join(path, file), 'utf8').replace(/\s/g, ''), 'hex')) }));
  });
}
