// The nodes of a generation by card and by address, for whoever asks thousands of times a second. Pure.
import type { Ip4, Mac } from '../addr.ts';
import type { Node } from './node.ts';
import type { Generation } from './profile.ts';

interface Directory {
  readonly byMac: ReadonlyMap<Mac, Node>;
  readonly byIp: ReadonlyMap<Ip4, string>;
}

/**
 * A generation is plain data, which is written down and compared: its tables are objects. To look a string up in an object that was just read off the
 * wire, V8 first looks for it among all strings that are property names; a Map does not.
 */
const directories = new WeakMap<Generation, Directory>();

function directoryOf(generation: Generation): Directory {
  const known = directories.get(generation);
  if (known) return known;
  const { nodes, nodeByMac, nodeByIp } = generation;
  const byMac = new Map(Object.entries(nodeByMac).flatMap(([mac, name]) => (nodes[name] ? [[mac, nodes[name]] as const] : [])));
  const made: Directory = { byMac, byIp: new Map(Object.entries(nodeByIp)) };
  directories.set(generation, made);
  return made;
}

/** The node that has this card. */
export function nodeWithCard(generation: Generation, mac: Mac): Node | undefined {
  return directoryOf(generation).byMac.get(mac);
}

/** The name of the node that this address is reserved for. */
export function reservedFor(generation: Generation, ip: Ip4): string | undefined {
  return directoryOf(generation).byIp.get(ip);
}
