// The code blocks of docs/OPERATING.md, and whole configurations around those that are parts of one.
import { readFileSync } from 'node:fs';

export const OPERATING = readFileSync(new URL('../docs/OPERATING.md', import.meta.url), 'utf8');

/** In the order of the page. */
export function blocksOf(language: string): string[] {
  return [...OPERATING.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, 'gm'))].map(([, block]) => block!);
}

/** Kea's block in a whole `Dhcp4`, for this card or none. */
export function keaConfig(block: string, card?: string): string {
  return `{ "Dhcp4": {
    "interfaces-config": { "interfaces": [${card ? `"${card}"` : ''}], "dhcp-socket-type": "udp" },
    "lease-database": { "type": "memfile", "persist": false },
    "subnet4": [{ "subnet": "192.168.1.0/24", "pools": [{ "pool": "192.168.1.100-192.168.1.199" }] }],
    ${block} } }`;
}

export function iscConfig(block: string): string {
  return `${block}\nping-check false;\nsubnet 192.168.1.0 netmask 255.255.255.0 { range 192.168.1.100 192.168.1.199; }\n`;
}
