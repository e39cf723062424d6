// Who may log in to a node, and the files that configure it under /config: what a profile, and each of its nodes, says of both.
import { z } from 'zod';
import { faultOfKey } from '../boot/ssh-keys.ts';
import type { Fault } from '../errors.ts';
import { entriesOf, member } from './claims.ts';
import type { YamlFile } from './document.ts';
import type { Path } from './faults.ts';
import { text } from './profile-words.ts';

const MOST_KEYS = 100;
/** Of a profile's files and its node's in one, in bytes: they travel with the session's config, and lie in RAM. */
export const CONFIG_BYTES = 64 * 1024;

const CONFIG_PATH = /^(?!.*(^|\/)\.{1,2}(\/|$))[A-Za-z0-9._@+:-]+(\/[A-Za-z0-9._@+:-]+)*$/;

/** What only a disk in the machine itself may say, and what has a key of its own. */
const RESERVED: readonly [pattern: RegExp, why: string][] = [
  [/^authorized_keys$/, 'has a key of its own: ssh: { keys: [..] }'],
  [/^(keys(\/|$)|floor$)/, 'cannot come from here: whose images a machine trusts is said by its initrd, or by the disk RACKSEED-CONFIG in it'],
];

export const sshSchema = z
  .strictObject({
    keys: z
      .array(
        text.superRefine((value, context) => {
          const fault = faultOfKey(value);
          if (fault !== undefined) context.addIssue(fault);
        }),
      )
      .max(MOST_KEYS, `at most ${MOST_KEYS} keys`)
      .nullish()
      .describe('public keys that may log in as root, each a line of authorized_keys'),
  })
  .nullish();

const configPath = z
  .string()
  .max(200, 'at most 200 characters')
  .regex(CONFIG_PATH, 'not a path below /config, such as etc/motd: no leading slash, no .. and no spaces')
  .superRefine((path, context) => {
    const why = RESERVED.find(([pattern]) => pattern.test(path))?.[1];
    if (why !== undefined) context.addIssue(why);
  });

/** A profile is read by whoever reads the repository that it lies in, and config travels as plain HTTP. */
const configText = text.refine((value) => !/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(value), 'a private key has no place in a profile: a file of the disk RACKSEED-CONFIG can be one');

export const configSchema = z.record(configPath, configText).nullish();

/** What single values cannot say: how much it is in all, and a path that is both a file and a directory; of the profile's files, and of each node's together with them. */
export function configFaults(yaml: YamlFile, content: unknown): Fault[] {
  const ofAll = entriesOf(member(content, 'config'));
  const faults = faultsOf(yaml, ['config'], new Map(ofAll));
  if (faults.length > 0) return faults;
  return entriesOf(member(content, 'nodes')).flatMap(([name, node]) => {
    const own = entriesOf(member(node, 'config'));
    return own.length === 0 ? [] : faultsOf(yaml, ['nodes', name, 'config'], new Map([...ofAll, ...own]));
  });
}

function faultsOf(yaml: YamlFile, at: Path, files: ReadonlyMap<string, unknown>): Fault[] {
  const bytes = [...files.values()].reduce((sum: number, value) => sum + Buffer.byteLength(String(value)), 0);
  const tooMuch = bytes > CONFIG_BYTES ? [{ file: yaml.file, ...yaml.place(at, { key: true }), message: `${at.join('.')}: ${bytes} bytes in all${at.length > 1 ? " with the profile's" : ''}, at most ${CONFIG_BYTES} fit`, hint: 'what is larger is an artifact: rackseed artifact add' }] : [];
  const both = [...files.keys()].flatMap((path) => {
    const above = path.split('/').slice(0, -1).map((_, index, parts) => parts.slice(0, index + 1).join('/')).find((parent) => files.has(parent));
    return above === undefined ? [] : [{ file: yaml.file, ...yaml.place([...at, path], { key: true }), message: `${at.join('.')}: ${above} is a file, so ${path} cannot be one in it` }];
  });
  return [...tooMuch, ...both];
}
