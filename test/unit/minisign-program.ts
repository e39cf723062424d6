// Debian's own minisign, for tests: RACKSEED_MINISIGN names another one than that on the PATH (with its libsodium by LD_LIBRARY_PATH).
import { spawnSync } from 'node:child_process';

export function minisign(...args: string[]): { readonly code: number | null; readonly out: string; readonly err: string } {
  const { status, stdout, stderr, error } = spawnSync(process.env['RACKSEED_MINISIGN'] ?? 'minisign', args, { encoding: 'utf8' });
  if (error) throw new Error(`minisign: ${error.message}: apt-get install --no-install-recommends minisign`);
  return { code: status, out: stdout, err: stderr };
}
