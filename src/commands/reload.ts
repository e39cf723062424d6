// `rackseed reload`: the running daemon reads its profiles again and resolves names, tags and refs anew.
import { FaultsError, type Fault } from '../errors.ts';
import { createClient, type ClientOptions } from './client.ts';

export async function reload(options: ClientOptions): Promise<string> {
  const outcome = await createClient(options).post<{ generation: string; changed: boolean; faults: Fault[] }>('/api/reload');
  if (outcome.faults.length > 0) throw new FaultsError('PROFILES_INVALID', outcome.faults, `the daemon goes on with generation ${short(outcome.generation)}`);
  return `${outcome.changed ? 'swapped to' : 'unchanged:'} generation ${short(outcome.generation)}\n`;
}

function short(digest: string): string {
  return digest.slice(0, 'sha256:'.length + 12);
}
