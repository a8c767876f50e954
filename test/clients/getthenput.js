// Gets an event subscription with the official SDK and puts it back as it was
// read. Arguments: URL of the server, token, scope and name. Prints the
// subscription before and after, its full URL and its headers, as JSON.
const { EventGridManagementClient } = require('@azure/arm-eventgrid')

const [endpoint, token, scope, name] = process.argv.slice(2)
const credential = { getToken: async () => ({ token, expiresOnTimestamp: Date.now() + 3600e3 }) }
const client = new EventGridManagementClient(credential, '00000000-0000-0000-0000-000000000000', {
  endpoint, $host: endpoint, retryOptions: { maxRetries: 0 }
})

async function main () {
  const subs = client.eventSubscriptions
  const before = await subs.get(scope, name)
  const put = await subs.beginCreateOrUpdateAndWait(scope, name, before, { updateIntervalInMs: 100 })
  const after = await subs.get(scope, name)
  const { endpointUrl } = await subs.getFullUrl(scope, name)
  const { value: attributes } = await subs.getDeliveryAttributes(scope, name)
  console.log(JSON.stringify({ before, put, after, endpointUrl, attributes }))
}
main().catch((err) => { console.error(err); process.exit(1) })
