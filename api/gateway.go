package api

// GatewayReport says what becomes of requests that come through another data plane.
type GatewayReport struct {
	Environment string         `json:"environment" doc:"Whose configuration it is: names of its routers begin with layover--<environment>--" example:"shop"`
	Mode        string         `json:"mode" enum:"hybrid,full" doc:"What the data plane answers itself"`
	Proxies     []GatewayProxy `json:"proxies" doc:"Layover's proxies, which it sends the other requests to"`
	Lines       []GatewayLine  `json:"lines" doc:"Where requests of each kind go"`
	Problems    []string       `json:"problems" doc:"What has to be put right before requests go through it; empty where nothing has"`
	Routers     int            `json:"routers" doc:"How many routers the configuration has"`
	Bytes       int            `json:"bytes" doc:"How long the configuration is"`
	Age         Duration       `json:"age,omitzero" doc:"For how long the configuration has been what it is, as far as this server knows" example:"3m"`
	Askers      []GatewayAsker `json:"askers" doc:"Those who read the configuration from this server, the latest first"`
	Redis       *GatewayRedis  `json:"redis,omitempty" doc:"How far the configuration is in Redis; left out where it is not written there"`
}

// GatewayProxy is a proxy of Layover that another data plane sends requests to.
type GatewayProxy struct {
	URL     string `json:"url" doc:"Where the data plane reaches it" example:"http://10.0.0.7:8080"`
	Problem string `json:"problem,omitempty" doc:"Why the server does not reach it; left out where it does"`
}

// GatewayLine says where requests of a kind are decided.
type GatewayLine struct {
	What  string `json:"what" example:"preview hosts"`
	Where string `json:"where" enum:"traefik,proxy,nowhere" doc:"traefik: as the table decides. proxy: by Layover's proxy. nowhere: otherwise than Layover's proxy would"`
	Text  string `json:"text"`
}

// GatewayRedis is how far the configuration is in Redis.
type GatewayRedis struct {
	Address string   `json:"address" example:"10.0.0.9:6379"`
	Written bool     `json:"written" doc:"The newest configuration is there"`
	Problem string   `json:"problem,omitempty" doc:"Why it is not"`
	Failing Duration `json:"failing,omitzero" doc:"For how long it could not be written" example:"3m"`
}

// GatewayAsker is another data plane that reads its configuration from the server.
type GatewayAsker struct {
	From  string   `json:"from" doc:"Its address, or that of the server that passed the question on" example:"10.0.0.3"`
	Ago   Duration `json:"ago" doc:"For how long it has not asked" example:"2s"`
	Every Duration `json:"every,omitzero" doc:"How often it asks; left out where it asked once" example:"5s"`
	Late  bool     `json:"late" doc:"It should have asked again by now"`
}
